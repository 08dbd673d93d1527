//! Kubernetes Secret: passwords of sessions. Values are never printed.

use super::{Invalid, Metadata};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// A value that is kept out of logs and answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Values by key.
    pub values: BTreeMap<String, Password>,
}

/// The document of a secret.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(default)]
    metadata: Metadata,
    data: Option<BTreeMap<String, Option<String>>>,
    string_data: Option<BTreeMap<String, Option<String>>>,
}

impl TryFrom<Document> for Secret {
    type Error = Invalid;

    fn try_from(document: Document) -> Result<Secret, Invalid> {
        super::check_name(&document.metadata.name)?;
        let mut values = BTreeMap::new();
        for (key, text) in document.data.unwrap_or_default() {
            let bytes = base64(&text.unwrap_or_default()).ok_or_else(|| {
                let what = format!("the value of '{key}' is no Base64");
                Invalid::new("data", what, "Base64, or plain text under stringData")
            })?;
            values.insert(key, Password(bytes));
        }
        // stringData wins, as when the API server writes it over data.
        for (key, text) in document.string_data.unwrap_or_default() {
            values.insert(key, Password(text.unwrap_or_default().into_bytes()));
        }
        Ok(Secret { values })
    }
}

/// RFC 4648 section 4, with padding; line ends are left out.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters: Vec<u8> = text.bytes().filter(|byte| !b"\r\n".contains(byte)).collect();
    if !letters.len().is_multiple_of(4) {
        return None;
    }
    let padding = letters.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(letters.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for letter in &letters[..letters.len() - padding] {
        let value = ALPHABET.iter().position(|one| one == letter)?;
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4648_section_10_vectors() {
        let vectors = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9v\nYmFy", "foobar"),
        ];
        for (text, expected) in vectors {
            assert_eq!(base64(text).as_deref(), Some(expected.as_bytes()), "{text}");
        }
        for bad in ["Zg", "Zg=a", "Z===", "Zh==", "Zm9 ", "===="] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_are_not_printed() {
        let secret = Secret { values: [("k".into(), Password(b"hunter2".to_vec()))].into() };
        assert!(
            !format!("{secret:?}").contains("hunter2") && !format!("{secret:?}").contains("104")
        );
    }
}
