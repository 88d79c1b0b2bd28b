//! The grammar of label selector strings.
// upstream: apimachinery pkg/labels, selector.go
use super::{Operator, Requirement, SelectorError};
use crate::{
    field::{Path, go_quote},
    names,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Error,
    End,
    ClosedPar,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    Identifier,
    In,
    LessThan,
    NotEquals,
    NotIn,
    OpenPar,
}

/// The parts of `text` that have a meaning; ends with [`Token::End`].
fn scan(text: &str) -> Vec<(Token, &str)> {
    let bytes = text.as_bytes();
    let special = |b: u8| matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<');
    let space = |b: u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if space(b) {
            at += 1;
            continue;
        }
        let rest = &bytes[at..];
        let (token, len) = if special(b) {
            match (b, rest.get(1)) {
                (b'=', Some(b'=')) => (Token::DoubleEquals, 2),
                (b'!', Some(b'=')) => (Token::NotEquals, 2),
                (b'=', _) => (Token::Equals, 1),
                (b'!', _) => (Token::DoesNotExist, 1),
                (b'(', _) => (Token::OpenPar, 1),
                (b')', _) => (Token::ClosedPar, 1),
                (b',', _) => (Token::Comma, 1),
                (b'>', _) => (Token::GreaterThan, 1),
                (b'<', _) => (Token::LessThan, 1),
                _ => (Token::Error, 1),
            }
        } else {
            let len = rest.iter().position(|b| special(*b) || space(*b)).unwrap_or(rest.len());
            let token = match &rest[..len] {
                b"in" => Token::In,
                b"notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            (token, len)
        };
        tokens.push((token, &text[at..at + len]));
        at += len;
    }
    tokens.push((Token::End, ""));
    tokens
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

fn fail<T>(message: String) -> Result<T, SelectorError> {
    Err(SelectorError(message))
}

impl<'a> Parser<'a> {
    /// The next token; keywords count as identifiers where a value is expected.
    fn peek(&self) -> (Token, &'a str) {
        match self.tokens.get(self.at).copied().unwrap_or((Token::End, "")) {
            (Token::In | Token::NotIn, text) => (Token::Identifier, text),
            other => other,
        }
    }

    fn next(&mut self) -> (Token, &'a str) {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut text) = self.next();
        let negated = token == Token::DoesNotExist;
        if negated {
            (token, text) = self.next();
        }
        if token != Token::Identifier {
            return fail(format!("found '{text}', expected: identifier"));
        }
        let wrong_key = names::qualified_name(text);
        if !wrong_key.is_empty() {
            return fail(format!("<nil>: Invalid value: {}: {}", go_quote(text), wrong_key.join("; ")));
        }
        let root = Path::root("");
        let ended = matches!(self.peek().0, Token::End | Token::Comma);
        if negated || ended {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(text.to_owned(), operator, Vec::new(), &root);
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?.to_owned()],
        };
        values.sort_unstable();
        values.dedup();
        Requirement::new(text.to_owned(), operator, values, &root)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, text) = self.tokens.get(self.at).copied().unwrap_or((Token::End, ""));
        self.at += 1;
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::GreaterThan => Operator::GreaterThan,
            Token::LessThan => Operator::LessThan,
            _ => return fail(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::OpenPar {
            return fail(format!("found '{text}' expected: '('"));
        }
        let mut values: Vec<String> = Vec::new();
        match self.peek() {
            (Token::ClosedPar, _) => values.push(String::new()),
            (Token::Identifier | Token::Comma, _) => loop {
                match self.next() {
                    (Token::Identifier, text) => {
                        values.push(text.to_owned());
                        match self.peek() {
                            (Token::Comma, _) => {}
                            (Token::ClosedPar, _) => break,
                            (_, text) => return fail(format!("found '{text}', expected: ',' or ')'")),
                        }
                    }
                    (Token::Comma, _) => {
                        if values.is_empty() {
                            values.push(String::new());
                        }
                        match self.peek().0 {
                            Token::ClosedPar => {
                                values.push(String::new());
                                break;
                            }
                            Token::Comma => values.push(String::new()),
                            _ => {}
                        }
                    }
                    (_, text) => return fail(format!("found '{text}', expected: ',', or identifier")),
                }
            },
            (_, text) => return fail(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        self.next();
        Ok(values)
    }

    fn exact_value(&mut self) -> Result<&'a str, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok("");
        }
        match self.next() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => fail(format!("found '{text}', expected: identifier")),
        }
    }
}

/// The requirements of a selector string, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::DoesNotExist, _) => {
                let requirement = parser.requirement();
                requirements.push(requirement.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
                match parser.next() {
                    (Token::End, _) => return Ok(requirements),
                    (Token::Comma, _) => match parser.peek() {
                        (Token::Identifier | Token::DoesNotExist, _) => {}
                        (_, text) => return fail(format!("found '{text}', expected: identifier after ','")),
                    },
                    (_, text) => return fail(format!("found '{text}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => return Ok(requirements),
            (_, text) => return fail(format!("found '{text}', expected: !, identifier, or 'end of string'")),
        }
    }
}
