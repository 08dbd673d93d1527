//! The text of a template to a tree: actions between `{{` and `}}`, in the grammar of Go's
//! text/template.

use serde_json::{Number, Value};

/// Deepest nesting of blocks and brackets.
const DEPTH_MAX: usize = 64;

/// A part of a template, and the line where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Text(String),
    /// Printed, unless it sets a variable.
    Action(Pipeline),
    If(Block),
    With(Block),
    Range(Block),
    Break,
    Continue,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    pub(super) pipeline: Pipeline,
    pub(super) body: Vec<Node>,
    pub(super) other: Vec<Node>,
}

/// Commands, each of which takes what the one before gave as its last argument.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that are set: one, or two in a range.
    pub(super) sets: Vec<String>,
    /// They are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Literal(Value),
    /// Fields of the dot; none is the dot itself.
    Field(Vec<String>),
    /// A variable, by its name without `$`, and fields of it.
    Variable(String, Vec<String>),
    Function(String),
    Bracket(Box<Pipeline>, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    /// One of `(`, `|`, `,`, `:=`, `=`.
    Sign(&'static str),
    /// A closing bracket, with the fields that follow at once.
    Close(Vec<String>),
}

/// Text or the inside of an action, with its line.
enum Piece<'a> {
    Text(String),
    Action(usize, &'a str),
}

/// The tree of a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let pieces = pieces(text)?;
    let mut parser = Parser { pieces: pieces.into_iter(), depth: 0 };
    let (nodes, end) = parser.nodes(false)?;
    match end {
        None => Ok(nodes),
        Some((line, word)) => Err(format!("line {line}: unexpected {{{{{word}}}}}")),
    }
}

/// Cuts the text at its actions; `{{-` and `-}}` take the space beside them away.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut found, mut rest, mut line, mut trims) = (Vec::new(), text, 1, false);
    loop {
        let begin = rest.find("{{");
        let mut before = &rest[..begin.unwrap_or(rest.len())];
        line += before.matches('\n').count();
        if trims {
            before = before.trim_start();
        }
        let Some(begin) = begin else {
            found.push(Piece::Text(before.to_owned()));
            return Ok(found);
        };
        let mut inside = &rest[begin + 2..];
        if inside.starts_with("- ") || inside.starts_with("-\n") {
            before = before.trim_end();
            inside = &inside[1..];
        }
        found.push(Piece::Text(before.to_owned()));
        let comment = inside.trim_start().starts_with("/*");
        let end = match comment {
            true => inside.find("*/").and_then(|at| Some(at + inside[at..].find("}}")?)),
            false => end_of(inside),
        };
        let end = end.ok_or_else(|| format!("line {line}: this action has no end"))?;
        let mut action = &inside[..end];
        rest = &inside[end + 2..];
        trims = action.ends_with(" -") || action.ends_with("\n-");
        if trims {
            action = &action[..action.len() - 1];
        }
        if !comment {
            found.push(Piece::Action(line, action));
        }
        line += action.matches('\n').count();
    }
}

/// Where an action ends: at `}}` outside of quotes.
fn end_of(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

struct Parser<'a> {
    pieces: std::vec::IntoIter<Piece<'a>>,
    depth: usize,
}

/// Where a list of nodes has ended: line and word.
type End = Option<(usize, String)>;

impl Parser<'_> {
    /// Nodes until the end of the text, or an `end` or `else`.
    fn nodes(&mut self, in_range: bool) -> Result<(Vec<Node>, End), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (line, action) = match piece {
                Piece::Text(text) => {
                    let what = What::Text(text);
                    nodes.push(Node { line: 0, what });
                    continue;
                }
                Piece::Action(line, action) => (line, action),
            };
            let at = |error: String| format!("line {line}: {error}");
            let tokens = tokens(action).map_err(at)?;
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let what = match word.as_str() {
                "end" | "else" => {
                    let text = action.trim().to_owned();
                    return Ok((nodes, Some((line, text))));
                }
                "if" => What::If(self.block(line, &tokens[1..], in_range)?),
                "with" => What::With(self.block(line, &tokens[1..], in_range)?),
                "range" => What::Range(self.block(line, &tokens[1..], true)?),
                "break" | "continue" if !in_range => {
                    return Err(at(format!("{{{{{word}}}}} outside of a range")));
                }
                "break" => What::Break,
                "continue" => What::Continue,
                "define" | "template" | "block" => {
                    return Err(at(format!("{{{{{word}}}}} is not supported")));
                }
                _ => What::Action(pipeline(&tokens).map_err(at)?),
            };
            nodes.push(Node { line, what });
        }
        Ok((nodes, None))
    }

    /// What belongs to an `if`, `with` or `range`.
    fn block(&mut self, line: usize, head: &[Token], in_range: bool) -> Result<Block, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("line {line}: more than {DEPTH_MAX} blocks inside of each other"));
        }
        let pipeline = pipeline(head).map_err(|error| format!("line {line}: {error}"))?;
        let (body, end) = self.nodes(in_range)?;
        let unended = || format!("line {line}: this block has no {{{{end}}}}");
        let (at, word) = end.ok_or_else(unended)?;
        let other = match word.as_str() {
            "end" => Vec::new(),
            "else" => {
                let (other, end) = self.nodes(in_range)?;
                match end.ok_or_else(unended)? {
                    (_, word) if word == "end" => other,
                    (at, word) => return Err(format!("line {at}: unexpected {{{{{word}}}}}")),
                }
            }
            // `else if` and `else with` share the end.
            _ => {
                let rest = word.trim_start_matches("else").trim_start();
                let head = tokens(rest).map_err(|error| format!("line {at}: {error}"))?;
                let what = match head.first() {
                    Some(Token::Word(word)) if word == "if" => {
                        What::If(self.block(at, &head[1..], in_range)?)
                    }
                    Some(Token::Word(word)) if word == "with" => {
                        What::With(self.block(at, &head[1..], in_range)?)
                    }
                    _ => return Err(format!("line {at}: unexpected {{{{{word}}}}}")),
                };
                vec![Node { line: at, what }]
            }
        };
        self.depth -= 1;
        Ok(Block { pipeline, body, other })
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let (sets, rest, declares) = match tokens {
        [Token::Variable(a, none), Token::Sign(sign @ (":=" | "=")), rest @ ..]
            if none.is_empty() =>
        {
            (vec![a.clone()], rest, *sign == ":=")
        }
        [
            Token::Variable(a, _),
            Token::Sign(","),
            Token::Variable(b, _),
            Token::Sign(sign @ (":=" | "=")),
            rest @ ..,
        ] => (vec![a.clone(), b.clone()], rest, *sign == ":="),
        rest => (Vec::new(), rest, false),
    };
    let mut at = 0;
    let mut found = commands(rest, &mut at, 0)?;
    if at < rest.len() {
        return Err("a bracket is closed that is not open".to_owned());
    }
    (found.sets, found.declares) = (sets, declares);
    Ok(found)
}

/// Commands until a closing bracket or the end.
fn commands(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline, String> {
    if depth > DEPTH_MAX {
        return Err(format!("more than {DEPTH_MAX} brackets inside of each other"));
    }
    let mut found = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        let operand = match token {
            Token::Close(_) => break,
            Token::Sign("|") => {
                *at += 1;
                found.push(Vec::new());
                continue;
            }
            Token::Sign("(") => {
                *at += 1;
                let inner = commands(tokens, at, depth + 1)?;
                let Some(Token::Close(fields)) = tokens.get(*at) else {
                    return Err("a bracket is not closed".to_owned());
                };
                Operand::Bracket(Box::new(inner), fields.clone())
            }
            Token::Sign(sign) => return Err(format!("unexpected '{sign}'")),
            Token::Word(word) => Operand::Function(word.clone()),
            Token::Field(fields) => Operand::Field(fields.clone()),
            Token::Variable(name, fields) => Operand::Variable(name.clone(), fields.clone()),
            Token::Literal(value) => Operand::Literal(value.clone()),
        };
        *at += 1;
        found.last_mut().into_iter().for_each(|command| command.push(operand.clone()));
    }
    match found.iter().any(Vec::is_empty) {
        true => Err("a command is missing".to_owned()),
        false => Ok(Pipeline { commands: found, ..Pipeline::default() }),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut found, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let (token, used) = match first {
            '(' => (Token::Sign("("), 1),
            '|' => (Token::Sign("|"), 1),
            ',' => (Token::Sign(","), 1),
            '=' => (Token::Sign("="), 1),
            ':' if rest.starts_with(":=") => (Token::Sign(":="), 2),
            ')' => {
                let (fields, used) = fields(&rest[1..]);
                (Token::Close(fields), 1 + used)
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (fields, used) = fields(rest);
                (Token::Field(fields), used.max(1))
            }
            '$' => {
                let name = word(&rest[1..]);
                let (fields, used) = fields(&rest[1 + name.len()..]);
                (Token::Variable(name.to_owned(), fields), 1 + name.len() + used)
            }
            '"' | '`' => {
                let (text, used) = quoted(rest)?;
                (Token::Literal(Value::String(text)), used)
            }
            c if c.is_ascii_digit() || "+-.".contains(c) => number(rest)?,
            c if c.is_alphabetic() || c == '_' => {
                let word = word(rest);
                let token = match word {
                    "true" | "false" => Token::Literal(Value::Bool(word == "true")),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                };
                (token, word.len())
            }
            other => return Err(format!("unexpected '{other}'")),
        };
        found.push(token);
        rest = rest[used..].trim_start();
    }
    Ok(found)
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// `.a.b`, as long as it goes, and its length.
fn fields(text: &str) -> (Vec<String>, usize) {
    let (mut found, mut used) = (Vec::new(), 0);
    while let Some(rest) = text[used..].strip_prefix('.') {
        let name = word(rest);
        if name.is_empty() {
            break;
        }
        found.push(name.to_owned());
        used += 1 + name.len();
    }
    (found, used)
}

/// A quoted text, and its length with the quotes.
fn quoted(text: &str) -> Result<(String, usize), String> {
    let unended = || "a text is not closed".to_owned();
    if let Some(rest) = text.strip_prefix('`') {
        let end = rest.find('`').ok_or_else(unended)?;
        return Ok((rest[..end].to_owned(), end + 2));
    }
    let (mut found, mut chars) = (String::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((found, at + 1)),
            '\\' => found.push(match chars.next().ok_or_else(unended)?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                c @ ('"' | '\\' | '\'') => c,
                other => return Err(format!("'\\{other}' is no escape that is supported")),
            }),
            c => found.push(c),
        }
    }
    Err(unended())
}

fn number(text: &str) -> Result<(Token, usize), String> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
    let part = &text[..end.unwrap_or(text.len())];
    let number = match part.parse::<i64>() {
        Ok(number) => Some(Number::from(number)),
        Err(_) => part.parse::<f64>().ok().and_then(Number::from_f64),
    };
    let number = number.ok_or_else(|| format!("'{part}' is no number"))?;
    Ok((Token::Literal(Value::Number(number)), part.len()))
}
