//! Words and signs of a selector, each with its column.
//!
//! Blanks are spaces and tabs only. Texts stand in single or double quotes and have no escapes.

use super::{LABEL_MAX, SelectorError, SelectorErrorKind};

/// A piece of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A label's name or a keyword; which of them, the place decides.
    Word(&'a str),
    /// What stands in quotes.
    Text(&'a str),
    /// One of `( ) { } , ! == != && ||`.
    Sign(&'static str),
    /// Nothing more.
    End,
}

/// Signs, the longer ones first.
const SIGNS: [&str; 10] = ["==", "!=", "&&", "||", "(", ")", "{", "}", ",", "!"];

/// Reads tokens from a text.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The error at a place, given in bytes.
    pub(super) fn error(&self, at: usize, kind: SelectorErrorKind) -> SelectorError {
        SelectorError { column: self.text[..at].chars().count() + 1, kind }
    }

    /// True when the next byte is this one, with no blank before it.
    pub(super) fn is_followed_by(&self, sign: char) -> bool {
        self.rest().starts_with(sign)
    }

    /// The next token and where it begins, in bytes.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), SelectorError> {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        let (start, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            self.at += sign.len();
            return Ok((start, Token::Sign(sign)));
        }
        if first == '\'' || first == '"' {
            let inside = &rest[1..];
            let Some(end) = inside.find(first) else {
                return Err(self.error(start, SelectorErrorKind::OpenText));
            };
            self.at += end + 2;
            return Ok((start, Token::Text(&inside[..end])));
        }
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_./-".contains(letter);
        let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        match length {
            0 => Err(self.error(start, SelectorErrorKind::Character(first))),
            1..=LABEL_MAX => {
                self.at += length;
                Ok((start, Token::Word(&rest[..length])))
            }
            _ => Err(self.error(start, SelectorErrorKind::LongLabel)),
        }
    }
}
