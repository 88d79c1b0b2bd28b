//! SPDY/3.1 framing, the server's side, as far as Kubernetes' streams need it. Start at [`serve`].
//!
//! Like the implementation in Kubernetes' clients it has no flow-control windows; backpressure is the connection's own.
use std::collections::HashMap;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// What both sides' header compression starts with (SPDY/3.1 specification, section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy_dictionary.bin");
/// The window of deflate.
const WINDOW: usize = 1 << 15;
/// The longest header block, unpacked.
const MAX_HEADERS: usize = 64 << 10;
/// The longest control frame.
const MAX_CONTROL: usize = 64 << 10;
/// Data is handed on in pieces of this size.
const PIECE: usize = 32 << 10;
/// The most streams at a time.
const MAX_STREAMS: usize = 1024;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;
const REFUSED_STREAM: u32 = 3;

/// A stream that the client opened.
#[derive(Debug)]
pub struct Stream {
    /// Its headers, with names in lower case.
    pub headers: HashMap<String, String>,
    /// What the client sends; ends with the client's FIN.
    pub incoming: mpsc::Receiver<Bytes>,
    /// What goes to the client.
    pub outgoing: Outgoing,
}

/// The server's half of a stream.
#[derive(Clone, Debug)]
pub struct Outgoing {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

impl Outgoing {
    /// Sends data. Fails when the connection is gone.
    pub async fn data(&self, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(PIECE) {
            self.frame(data_frame(self.id, 0, piece)).await?;
        }
        Ok(())
    }

    /// Ends the server's half.
    pub async fn finish(&self) -> io::Result<()> {
        self.frame(data_frame(self.id, FLAG_FIN, &[])).await
    }

    async fn frame(&self, frame: Bytes) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn data_frame(id: u32, flags: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + data.len());
    frame.put_u32(id & 0x7fff_ffff);
    frame.put_u8(flags);
    // Pieces are shorter than 2^24.
    frame.put_uint(data.len() as u64, 3);
    frame.put_slice(data);
    frame.freeze()
}

fn control_frame(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(0);
    frame.put_uint(payload.len() as u64, 3);
    frame.put_slice(payload);
    frame.freeze()
}

/// Serves a connection: its streams come out of the returned channel until it ends.
pub fn serve<T>(io: T) -> mpsc::Receiver<Stream>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, mut write) = tokio::io::split(io);
    let (frames, mut outgoing) = mpsc::channel::<Bytes>(32);
    let (streams, accepted) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        // All halves are done; the client may have gone first.
        write.shutdown().await.ok();
    });
    tokio::spawn(async move {
        let mut reader = Reader { frames, streams, open: HashMap::new(), inflate: Inflate::default(), replied: false };
        if let Err(error) = reader.run(read).await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    accepted
}

struct Reader {
    frames: mpsc::Sender<Bytes>,
    streams: mpsc::Sender<Stream>,
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    inflate: Inflate,
    /// Whether the server's header compression has begun.
    replied: bool,
}

impl Reader {
    async fn run(&mut self, mut read: impl AsyncRead + Unpin) -> io::Result<()> {
        loop {
            let mut header = [0; 8];
            match read.read_exact(&mut header).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                result => result?,
            };
            let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            if header[0] & 0x80 == 0 {
                let id = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                self.data(&mut read, id, header[4], length).await?;
                continue;
            }
            if length > MAX_CONTROL {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a control frame is too long"));
            }
            let mut payload = vec![0; length];
            read.read_exact(&mut payload).await?;
            if u16::from_be_bytes([header[0], header[1]]) & 0x7fff != VERSION {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not SPDY/3"));
            }
            if !self.control(u16::from_be_bytes([header[2], header[3]]), header[4], &payload).await? {
                return Ok(());
            }
        }
    }

    async fn data(
        &mut self,
        read: &mut (impl AsyncRead + Unpin),
        id: u32,
        flags: u8,
        mut left: usize,
    ) -> io::Result<()> {
        while left > 0 {
            let mut piece = BytesMut::zeroed(left.min(PIECE));
            read.read_exact(&mut piece).await?;
            left -= piece.len();
            if let Some(stream) = self.open.get(&id)
                && stream.send(piece.freeze()).await.is_err()
            {
                // Nobody reads it any more: what comes is dropped.
                self.open.remove(&id);
            }
        }
        if flags & FLAG_FIN != 0 {
            self.open.remove(&id);
        }
        Ok(())
    }

    /// Handles a control frame; `false` ends the connection.
    async fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> io::Result<bool> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "a frame is too short");
        match kind {
            SYN_STREAM => {
                if payload.len() < 10 {
                    return Err(short());
                }
                let id = payload.get_u32() & 0x7fff_ffff;
                payload.advance(6);
                let headers = parse_headers(&self.inflate.block(payload)?)?;
                return self.accept(id, flags, headers).await;
            }
            RST_STREAM if payload.len() >= 4 => {
                self.open.remove(&(payload.get_u32() & 0x7fff_ffff));
            }
            PING if payload.len() >= 4 => return Ok(self.frames.send(control_frame(PING, payload)).await.is_ok()),
            GOAWAY => {}
            // HEADERS would move the compression's state on; nobody sends them. SETTINGS and WINDOW_UPDATE do not matter.
            8 => {
                self.inflate.block(payload.get(4..).ok_or_else(short)?)?;
            }
            _ => {}
        }
        Ok(true)
    }

    async fn accept(&mut self, id: u32, flags: u8, headers: HashMap<String, String>) -> io::Result<bool> {
        if self.open.len() >= MAX_STREAMS || self.open.contains_key(&id) || id == 0 {
            let mut payload = BytesMut::new();
            payload.put_u32(id);
            payload.put_u32(REFUSED_STREAM);
            return Ok(self.frames.send(control_frame(RST_STREAM, &payload)).await.is_ok());
        }
        let (sender, incoming) = mpsc::channel(16);
        if flags & FLAG_FIN == 0 {
            self.open.insert(id, sender);
        }
        let mut reply = BytesMut::new();
        reply.put_u32(id);
        reply.put_slice(&no_headers(!std::mem::replace(&mut self.replied, true)));
        if self.frames.send(control_frame(SYN_REPLY, &reply)).await.is_err() {
            return Ok(false);
        }
        let outgoing = Outgoing { id, frames: self.frames.clone() };
        Ok(self.streams.send(Stream { headers, incoming, outgoing }).await.is_ok())
    }
}

/// An empty header block in the server's compressed stream, as a stored block; the first one opens the stream.
fn no_headers(first: bool) -> Vec<u8> {
    let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
    // Not final, stored, four bytes: the number of headers, zero.
    block.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
    // An empty block, like that of a flush: without it Go's reader looks for more before it hands the first one out.
    block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    block
}

/// The client's compressed header blocks: one zlib stream over all frames, with a dictionary.
#[derive(Default)]
struct Inflate {
    state: Option<(Box<DecompressorOxide>, Vec<u8>, usize)>,
}

impl Inflate {
    fn block(&mut self, mut input: &[u8]) -> io::Result<Vec<u8>> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "bad compressed headers");
        let (decompressor, window, position) = match &mut self.state {
            Some(state) => state,
            none => {
                let flags = *input.get(1).ok_or_else(invalid)?;
                let mut window = vec![0; WINDOW];
                let mut position = 0;
                input.advance(2);
                if flags & 0x20 != 0 {
                    // The dictionary's checksum follows; there is only one dictionary.
                    input = input.get(4..).ok_or_else(invalid)?;
                    window[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
                    position = DICTIONARY.len();
                }
                none.insert((Box::default(), window, position))
            }
        };
        let mut output = Vec::new();
        loop {
            let (status, read, written) = decompress(decompressor, input, window, *position, TINFL_FLAG_HAS_MORE_INPUT);
            input = &input[read..];
            output.extend_from_slice(&window[*position..*position + written]);
            *position = (*position + written) % WINDOW;
            if output.len() > MAX_HEADERS {
                return Err(invalid());
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput | TINFLStatus::Done if input.is_empty() => return Ok(output),
                _ => return Err(invalid()),
            }
        }
    }
}

fn parse_headers(mut block: &[u8]) -> io::Result<HashMap<String, String>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "bad headers");
    let number = |block: &mut &[u8]| if block.len() < 4 { Err(invalid()) } else { Ok(block.get_u32() as usize) };
    let count = number(&mut block)?;
    let mut headers = HashMap::new();
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut block)?;
            if block.len() < length {
                return Err(invalid());
            }
            let (text, rest) = block.split_at(length);
            block = rest;
            String::from_utf8(text.to_vec()).map_err(|_| invalid())
        };
        let (name, value) = (text()?, text()?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header blocks as Go's zlib writer with the dictionary makes them, uncompressed where that is simpler.
    fn stored(first: bool, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut text = BytesMut::new();
        text.put_u32(u32::try_from(headers.len()).unwrap());
        for (name, value) in headers {
            for word in [name, value] {
                text.put_u32(u32::try_from(word.len()).unwrap());
                text.put_slice(word.as_bytes());
            }
        }
        let length = u16::try_from(text.len()).unwrap();
        let mut block = if first { vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2] } else { Vec::new() };
        block.push(0);
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(&(!length).to_le_bytes());
        block.extend_from_slice(&text);
        block
    }

    fn syn_stream(id: u32, block: &[u8]) -> Bytes {
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        payload.put_bytes(0, 6);
        payload.put_slice(block);
        control_frame(SYN_STREAM, &payload)
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut streams = serve(server);
        client.write_all(&syn_stream(1, &stored(true, &[("StreamType", "data"), ("port", "80")]))).await.unwrap();
        client.write_all(&data_frame(1, FLAG_FIN, b"hello")).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        assert_eq!(stream.headers["streamtype"], "data");
        assert_eq!(stream.incoming.recv().await.unwrap(), "hello");
        assert!(stream.incoming.recv().await.is_none());
        stream.outgoing.data(b"world").await.unwrap();
        stream.outgoing.finish().await.unwrap();

        client.write_all(&syn_stream(3, &stored(false, &[]))).await.unwrap();
        assert!(streams.recv().await.unwrap().headers.is_empty());
        client.write_all(&control_frame(PING, &[0, 0, 0, 1])).await.unwrap();

        let mut expected = Vec::new();
        expected.extend_from_slice(&control_frame(SYN_REPLY, &[&[0, 0, 0, 1], no_headers(true).as_slice()].concat()));
        expected.extend_from_slice(&data_frame(1, 0, b"world"));
        expected.extend_from_slice(&data_frame(1, FLAG_FIN, b""));
        expected.extend_from_slice(&control_frame(SYN_REPLY, &[&[0, 0, 0, 3], no_headers(false).as_slice()].concat()));
        expected.extend_from_slice(&control_frame(PING, &[0, 0, 0, 1]));
        let mut actual = vec![0; expected.len()];
        client.read_exact(&mut actual).await.unwrap();
        assert_eq!(actual, expected);
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x80, 3, 0, 1, 0, 0, 0, 2, 1, 1], &[0x80, 3, 0, 1, 0, 0xff, 0, 0]]
        {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let mut streams = serve(server);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(streams.recv().await.is_none());
        }
    }

    #[test]
    fn matches_in_the_dictionary_are_found() {
        // Made by zlib with the dictionary, flushed: one header, `accept-charset: options`.
        let mut compressor = Vec::new();
        let text = b"\0\0\0\x01\0\0\0\x0eaccept-charset\0\0\0\x07options";
        compressor.extend_from_slice(&stored(true, &[("accept-charset", "options")]));
        assert_eq!(Inflate::default().block(&compressor).unwrap(), text);
        let compressed = include_bytes!("spdy_headers_test.bin");
        assert_eq!(Inflate::default().block(compressed).unwrap(), text);
    }
}
