//! From tokens to an expression, by recursive descent with a bounded depth.

use super::lexer::{Lexer, Token};
use super::{DEPTH_MAX, Node, SelectorError, SelectorErrorKind, Test};

pub(super) fn parse(text: &str) -> Result<Node, SelectorError> {
    let mut lexer = Lexer::new(text);
    let first = lexer.next()?;
    if first.1 == Token::End {
        return Ok(Node::All);
    }
    let mut parser = Parser { lexer, token: first, depth: 0 };
    let root = parser.either()?;
    match parser.token.1 {
        Token::End => Ok(root),
        _ => Err(parser.expected("&&, || or the end")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next token, and where it begins.
    token: (usize, Token<'a>),
    depth: usize,
}

impl<'a> Parser<'a> {
    fn expected(&self, what: &'static str) -> SelectorError {
        self.lexer.error(self.token.0, SelectorErrorKind::Expected(what))
    }

    fn advance(&mut self) -> Result<Token<'a>, SelectorError> {
        let taken = self.token.1;
        self.token = self.lexer.next()?;
        Ok(taken)
    }

    fn take(&mut self, sign: &'static str) -> Result<bool, SelectorError> {
        let is_next = self.token.1 == Token::Sign(sign);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn demand(&mut self, sign: &'static str) -> Result<(), SelectorError> {
        match self.take(sign)? {
            true => Ok(()),
            false => Err(self.expected(sign)),
        }
    }

    fn either(&mut self) -> Result<Node, SelectorError> {
        let mut operands = vec![self.both()?];
        while self.take("||")? {
            operands.push(self.both()?);
        }
        Ok(joined(operands, Node::Or))
    }

    fn both(&mut self) -> Result<Node, SelectorError> {
        let mut operands = vec![self.operand()?];
        while self.take("&&")? {
            operands.push(self.operand()?);
        }
        Ok(joined(operands, Node::And))
    }

    fn operand(&mut self) -> Result<Node, SelectorError> {
        let start = self.token.0;
        if self.depth >= DEPTH_MAX {
            return Err(self.lexer.error(start, SelectorErrorKind::Deep));
        }
        self.depth += 1;
        let node = match self.token.1 {
            Token::Sign("!") => {
                self.advance()?;
                Node::Not(Box::new(self.operand()?))
            }
            Token::Sign("(") => {
                self.advance()?;
                let inner = self.either()?;
                self.demand(")")?;
                inner
            }
            // A keyword is one only with its parenthesis right behind it.
            Token::Word("all") if self.lexer.is_followed_by('(') => self.call(Node::All)?,
            Token::Word("global") if self.lexer.is_followed_by('(') => self.call(Node::Global)?,
            Token::Word("has") if self.lexer.is_followed_by('(') => self.has()?,
            Token::Word(name) => {
                self.advance()?;
                self.comparison(name)?
            }
            _ => return Err(self.expected("a label, has(), all(), global(), ! or (")),
        };
        self.depth -= 1;
        Ok(node)
    }

    fn call(&mut self, node: Node) -> Result<Node, SelectorError> {
        self.advance()?;
        self.demand("(")?;
        self.demand(")")?;
        Ok(node)
    }

    fn has(&mut self) -> Result<Node, SelectorError> {
        self.advance()?;
        self.demand("(")?;
        let Token::Word(name) = self.token.1 else { return Err(self.expected("a label")) };
        self.advance()?;
        self.demand(")")?;
        Ok(Node::Has(name.into()))
    }

    fn comparison(&mut self, name: &str) -> Result<Node, SelectorError> {
        const OPERATORS: &str = "==, !=, in, not in, contains, starts with or ends with";
        let start = self.token.0;
        let operator = self.advance()?;
        let test = match operator {
            Token::Sign("==") => Test::Equal,
            Token::Sign("!=") => Test::NotEqual,
            Token::Word("contains") => Test::Contains,
            Token::Word("startswith") => Test::StartsWith,
            Token::Word("endswith") => Test::EndsWith,
            Token::Word("starts") => self.second("with", Test::StartsWith)?,
            Token::Word("ends") => self.second("with", Test::EndsWith)?,
            Token::Word("in") => return self.set(name, true),
            Token::Word("notin") => return self.set(name, false),
            Token::Word("not") => {
                self.second("in", Test::NotEqual)?;
                return self.set(name, false);
            }
            _ => return Err(self.lexer.error(start, SelectorErrorKind::Expected(OPERATORS))),
        };
        let Token::Text(text) = self.token.1 else {
            return Err(self.expected("a text in quotes"));
        };
        self.advance()?;
        Ok(Node::Test(name.into(), test, text.into()))
    }

    /// The second word of an operator of two.
    fn second(&mut self, word: &'static str, test: Test) -> Result<Test, SelectorError> {
        if self.token.1 != Token::Word(word) {
            return Err(self.expected(word));
        }
        self.advance()?;
        Ok(test)
    }

    fn set(&mut self, name: &str, wanted: bool) -> Result<Node, SelectorError> {
        self.demand("{")?;
        let mut values: Vec<Box<str>> = Vec::new();
        while let Token::Text(text) = self.token.1 {
            self.advance()?;
            values.push(text.into());
            if !self.take(",")? {
                break;
            }
        }
        if self.token.1 != Token::Sign("}") {
            let what = if values.is_empty() { "a text in quotes or }" } else { ", or }" };
            return Err(self.expected(what));
        }
        self.advance()?;
        values.sort_unstable();
        values.dedup();
        Ok(Node::In(name.into(), wanted, values.into()))
    }
}

fn joined(mut operands: Vec<Node>, join: impl Fn(Vec<Node>) -> Node) -> Node {
    match operands.len() {
        1 => operands.remove(0),
        _ => join(operands),
    }
}
