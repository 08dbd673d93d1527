//! The text of one file as documents that can be replaced one by one.
//!
//! What stands around the replaced document stays as it is, its own leading comments too; an item
//! of a list is replaced by writing the list anew. A document is written as YAML, or as JSON
//! (which is YAML) where reading the YAML back would not give the same value.

use super::Fault;
use super::document::{self, List};
use crate::resource::Header;
use serde_json::Value;
use std::ops::Range;

/// Where in a file a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which document of the text, blank ones counted.
    document: usize,
    /// Which item of it, when it is a list.
    item: Option<usize>,
}

/// All documents of a text, with their places; an error is one of syntax.
pub(super) fn values(file: &str, text: &str) -> Result<Vec<(Place, Value)>, Fault> {
    let mut found = Vec::new();
    for (at, (before, part)) in document::documents(text).into_iter().enumerate() {
        if document::blank(part) {
            continue;
        }
        let fault = |error| document::syntax_fault(file, before, &error);
        if is_list(part).map_err(fault)? {
            let list: List = document::parse(part).map_err(fault)?;
            let items = list.items.unwrap_or_default().into_iter().enumerate();
            found.extend(
                items.map(|(item, value)| (Place { document: at, item: Some(item) }, value.value)),
            );
            continue;
        }
        let value: Value = document::parse(part).map_err(fault)?;
        found.push((Place { document: at, item: None }, value));
    }
    Ok(found)
}

/// True for documents that are lists of resources.
pub(super) fn is_list(part: &str) -> Result<bool, serde_saphyr::Error> {
    let header: Header = document::parse(part)?;
    Ok(header.kind == "List" || header.kind.ends_with("List") && document::has_items(part))
}

/// The text with another document in this place, or without it.
pub(super) fn replaced(text: &str, place: Place, value: Option<&Value>) -> Result<String, String> {
    let parts = document::documents(text);
    let (_, part) = parts.get(place.document).ok_or("the file has changed meanwhile")?;
    let range = range_in(text, part);
    let comments: String =
        part.split_inclusive('\n').take_while(|line| document::blank(line)).collect();
    let body = match (place.item, value) {
        (None, Some(value)) => written(value),
        (None, None) => return Ok(without(text, range)),
        (Some(item), value) => {
            let mut list: Value = document::parse(part).map_err(|error| error.to_string())?;
            let items = list.get_mut("items").and_then(Value::as_array_mut);
            let items = items.filter(|items| item < items.len());
            let items = items.ok_or("the file has changed meanwhile")?;
            match value {
                Some(value) => items[item] = value.clone(),
                None => drop(items.remove(item)),
            }
            match items.is_empty() {
                true => return Ok(without(text, range)),
                false => written(&list),
            }
        }
    };
    Ok(format!("{}{comments}{body}{}", &text[..range.start], &text[range.end..]))
}

/// A document's text, which ends with a line break.
pub(super) fn written(value: &Value) -> String {
    let yaml = serde_saphyr::to_string(value).unwrap_or_default();
    let same = document::documents(&yaml).len() == 1
        && document::parse::<Value>(&yaml).is_ok_and(|read| read == *value);
    match same {
        true => format!("{}\n", yaml.trim_end()),
        false => format!("{value:#}\n"),
    }
}

/// True when no document is left in a text.
pub(super) fn is_empty(text: &str) -> bool {
    document::documents(text).iter().all(|(_, part)| document::blank(part))
}

/// Without one document, and the marker line that set it apart.
fn without(text: &str, range: Range<usize>) -> String {
    let (before, after) = (&text[..range.start], &text[range.end..]);
    let marker = after.find('\n').map_or(after.len(), |end| end + 1);
    match before.is_empty() {
        true => after[marker..].to_owned(),
        false => {
            let line = before.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
            format!("{}{after}", &before[..line])
        }
    }
}

fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}
