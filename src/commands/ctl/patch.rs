//! Patches of JSON: merge (RFC 7396), and lists of operations (RFC 6902).

use serde::Deserialize;
use serde_json::Value;

/// Most operations of one patch.
const OPERATIONS_MAX: usize = 10_000;

/// One operation of RFC 6902.
#[derive(Debug, Deserialize)]
struct Operation {
    op: String,
    path: String,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    from: Option<String>,
}

/// RFC 7396: objects are merged, null removes, everything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.remove(name)),
            value => merge(target.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

/// RFC 6902; all operations, or an error that names the one that cannot be done.
pub(super) fn operate(target: &Value, patch: &Value) -> Result<Value, String> {
    let operations: Vec<Operation> =
        serde_json::from_value(patch.clone()).map_err(|error| format!("the patch: {error}"))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(format!("the patch: more than {OPERATIONS_MAX} operations"));
    }
    let mut patched = target.clone();
    for operation in operations {
        let place = format!("{} {}", operation.op, operation.path);
        one(&mut patched, operation).ok_or_else(|| format!("the patch: {place} cannot be done"))?;
    }
    Ok(patched)
}

fn one(target: &mut Value, operation: Operation) -> Option<()> {
    let path = &operation.path;
    match operation.op.as_str() {
        "add" => add(target, path, operation.value),
        "remove" => remove(target, path).map(drop),
        "replace" => target.pointer_mut(path).map(|place| *place = operation.value),
        "test" => (*target.pointer(path)? == operation.value).then_some(()),
        "copy" => {
            let value = target.pointer(&operation.from?)?.clone();
            add(target, path, value)
        }
        "move" => {
            let value = remove(target, &operation.from?)?;
            add(target, path, value)
        }
        _ => None,
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, name) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => drop(object.insert(name, value)),
        Value::Array(array) if name == "-" => array.push(value),
        Value::Array(array) => {
            let at: usize = name.parse().ok().filter(|at| *at <= array.len())?;
            array.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => object.remove(&name),
        Value::Array(array) => {
            let at: usize = name.parse().ok().filter(|at| *at < array.len())?;
            Some(array.remove(at))
        }
        _ => None,
    }
}

/// A pointer's parent, and the last name with `~1` and `~0` resolved.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, name) = path.rsplit_once('/')?;
    Some((parent, name.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merges_are_those_of_rfc_7396() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in cases {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }

    /// Of RFC 6902, appendix A.
    #[test]
    fn operations_are_those_of_rfc_6902() {
        let target = json!({"foo": ["bar", "baz"], "a/b": {"~": 1}});
        let cases = [
            (json!([{"op": "add", "path": "/foo/1", "value": "q"}]), "/foo/1", json!("q")),
            (json!([{"op": "add", "path": "/foo/-", "value": "q"}]), "/foo/2", json!("q")),
            (json!([{"op": "remove", "path": "/foo/0"}]), "/foo/0", json!("baz")),
            (json!([{"op": "replace", "path": "/a~1b/~0", "value": 2}]), "/a~1b/~0", json!(2)),
            (json!([{"op": "move", "from": "/foo/0", "path": "/new"}]), "/new", json!("bar")),
            (json!([{"op": "copy", "from": "/foo", "path": "/new"}]), "/new/1", json!("baz")),
        ];
        for (patch, place, expected) in cases {
            let patched = operate(&target, &patch).unwrap();
            assert_eq!(patched.pointer(place), Some(&expected), "{patch}");
        }
        for bad in [
            json!([{"op": "test", "path": "/foo/0", "value": "x"}]),
            json!([{"op": "remove", "path": "/none"}]),
            json!([{"op": "add", "path": "/foo/9", "value": 1}]),
            json!([{"op": "add", "path": "/none/a", "value": 1}]),
            json!([{"op": "guess", "path": "/foo"}]),
            json!({"not": "a list"}),
        ] {
            assert!(operate(&target, &bad).is_err(), "{bad}");
        }
    }
}
