//! Messages with file descriptors over `SOCK_SEQPACKET` Unix sockets.
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, sendmsg, socket, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{MAX_FDS, MAX_MESSAGE};

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Listens at `name` in the current directory (a Unix address holds no long path).
pub fn listen_here(name: &str) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(name)?)?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd)
}

/// Connects to the socket `name` in `directory`, however long its path is. The result does not block.
pub fn connect_in(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let directory = std::fs::File::open(directory)?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    connect(fd.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
    Ok(fd)
}

/// Sends one message.
pub fn send<T: Serialize>(fd: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for the shim's socket"));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<UnixAddr>(fd.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message into `buffer`; `None` when the other side has closed.
pub fn receive<T: DeserializeOwned>(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut fds = Vec::new();
    let length = {
        let mut slices = [IoSliceMut::new(buffer)];
        let message = loop {
            match recvmsg::<UnixAddr>(fd.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(message) => break message,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                // SAFETY: the kernel just installed these descriptors for us; nobody else owns them.
                fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    if length == 0 {
        return Ok(None);
    }
    let value = serde_json::from_slice(&buffer[..length]).map_err(io::Error::other)?;
    Ok(Some((value, fds)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::protocol::Request;
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), &Request::List, &[left.as_fd()]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE];
        let (message, fds) = receive::<Request>(right.as_fd(), &mut buffer).unwrap().unwrap();
        assert!(matches!(message, Request::List));
        assert_eq!(fds.len(), 1);
        drop((left, fds));
        assert!(receive::<Request>(right.as_fd(), &mut buffer).unwrap().is_none());
    }
}
