//! Interface names with `*` for any run of characters and `?` for one, as BIRD writes them.

/// A form of interface names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// A pattern; every text is one.
    pub fn new(text: &str) -> Pattern {
        Pattern(text.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when the whole name has this form.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where to go on when a character does not fit: behind the last `*`, one character later.
        let mut retry: Option<(usize, usize)> = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    retry = Some((at + 1, read));
                    at += 1;
                }
                Some(letter) if *letter == b'?' || *letter == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    let Some((star, from)) = retry else { return false };
                    retry = Some((star, from + 1));
                    (at, read) = (star, from + 1);
                }
            }
        }
        pattern[at..].iter().all(|letter| *letter == b'*')
    }
}
