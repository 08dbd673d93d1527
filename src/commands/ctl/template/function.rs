//! The functions of templates: Go's own, and calicoctl's `join`.

use serde_json::Value;
use std::cmp::Ordering;

/// Widest field of `printf`.
const WIDTH_MAX: usize = 1000;

/// Calls a function.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let need = |count: usize| match arguments.len() == count {
        true => Ok(()),
        false => Err(format!("{name} takes {count} argument(s), not {}", arguments.len())),
    };
    match name {
        "not" => need(1).map(|()| Value::Bool(!is_true(&arguments[0]))),
        "len" => {
            need(1)?;
            let length = match &arguments[0] {
                Value::String(text) => text.len(),
                Value::Array(values) => values.len(),
                Value::Object(object) => object.len(),
                Value::Null => 0,
                other => return Err(format!("len of {other}")),
            };
            Ok(Value::from(length))
        }
        "index" => index(arguments),
        "eq" => {
            let (first, rest) = arguments.split_first().ok_or("eq has no arguments")?;
            if rest.is_empty() {
                return Err("eq takes two arguments at least".to_owned());
            }
            let same = rest.iter().map(|other| compare(first, other));
            let same: Result<Vec<Option<Ordering>>, String> = same.collect();
            Ok(Value::Bool(same?.contains(&Some(Ordering::Equal))))
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            need(2)?;
            let order = compare(&arguments[0], &arguments[1])?;
            if name == "ne" {
                return Ok(Value::Bool(order != Some(Ordering::Equal)));
            }
            let order = order.ok_or_else(|| format!("{name} of values without an order"))?;
            Ok(Value::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        "print" => Ok(Value::from(arguments.iter().map(printed).collect::<String>())),
        "println" => {
            let texts: Vec<String> = arguments.iter().map(printed).collect();
            Ok(Value::from(format!("{}\n", texts.join(" "))))
        }
        "printf" => {
            let (form, rest) = arguments.split_first().ok_or("printf has no arguments")?;
            let form = form.as_str().ok_or("printf's first argument is no text")?;
            format(form, rest).map(Value::from)
        }
        "join" => {
            need(2)?;
            let between = arguments[1].as_str().ok_or("join's second argument is no text")?;
            match &arguments[0] {
                Value::Array(values) => {
                    let texts: Vec<String> = values.iter().map(printed).collect();
                    Ok(Value::from(texts.join(between)))
                }
                Value::Null => Ok(Value::from("")),
                other => Err(format!("join of {other}")),
            }
        }
        other => Err(format!("function \"{other}\" not defined")),
    }
}

/// Empty and zero values are false.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

/// As Go prints it; what is missing is empty.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(printed).collect();
            format!("[{}]", texts.join(" "))
        }
        Value::Object(object) => {
            let mut texts: Vec<String> =
                object.iter().map(|(name, value)| format!("{name}:{}", printed(value))).collect();
            texts.sort();
            format!("map[{}]", texts.join(" "))
        }
        other => other.to_string(),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let (first, keys) = arguments.split_first().ok_or("index has no arguments")?;
    let mut value = first;
    for key in keys {
        value = match (value, key) {
            (Value::Array(values), Value::Number(at)) => {
                let found = at.as_u64().and_then(|at| values.get(at as usize));
                found.ok_or_else(|| format!("index out of range: {at}"))?
            }
            (Value::Object(object), Value::String(name)) => {
                object.get(name).unwrap_or(&Value::Null)
            }
            (Value::Null, _) => return Ok(Value::Null),
            (value, key) => return Err(format!("can't index {value} with {key}")),
        };
    }
    Ok(value.clone())
}

/// The order of two values; none where they are of a kind that has none and differ.
fn compare(one: &Value, other: &Value) -> Result<Option<Ordering>, String> {
    Ok(match (one, other) {
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        },
        // A field that is missing is of any type, and empty.
        (Value::Null, value) | (value, Value::Null) => (!is_true(value)).then_some(Ordering::Equal),
        (Value::Bool(one), Value::Bool(other)) => (one == other).then_some(Ordering::Equal),
        (one, other) => {
            return Err(format!("incompatible types for comparison: {one} and {other}"));
        }
    })
}

/// `printf`, with the verbs `%v %s %d %q %t %x %f %g %%`, a width, a precision, `-` and `0`.
fn format(form: &str, arguments: &[Value]) -> Result<String, String> {
    let (mut text, mut rest, mut arguments) = (String::new(), form, arguments.iter());
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"-+ 0.".contains(c));
        let end = end.ok_or("printf: a % without a verb")?;
        let (flags, verb) = (&rest[..end], rest[end..].chars().next().unwrap_or('%'));
        rest = &rest[end + verb.len_utf8()..];
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("printf: nothing for %{verb}"))?;
        text.push_str(&padded(flags, verb, value)?);
    }
    text.push_str(rest);
    match arguments.next() {
        Some(more) => Err(format!("printf: {} has no verb", printed(more))),
        None => Ok(text),
    }
}

fn padded(flags: &str, verb: char, value: &Value) -> Result<String, String> {
    let (left, rest) = (flags.contains('-'), flags.trim_start_matches(['-', '+', ' ']));
    let zeros = rest.starts_with('0') && !left;
    let (width, precision) = rest.split_once('.').map_or((rest, None), |(a, b)| (a, Some(b)));
    let number = |text: &str| match text {
        "" => Ok(0),
        text => text.parse::<usize>().ok().filter(|n| *n <= WIDTH_MAX).ok_or_else(|| {
            format!("printf: a width of '{text}' is none, or more than {WIDTH_MAX}")
        }),
    };
    let (width, precision) = (number(width)?, precision.map(number).transpose()?);
    let unfit = || Err(format!("printf: %{verb} of {value}"));
    let mut text = match (verb, value) {
        ('v', Value::Null) => "<nil>".to_owned(),
        ('v' | 's', value) => printed(value),
        ('q', Value::String(text)) => format!("{text:?}"),
        ('t', Value::Bool(truth)) => truth.to_string(),
        ('d', Value::Number(number)) if !number.is_f64() => number.to_string(),
        ('x', Value::Number(number)) if number.is_u64() => {
            format!("{:x}", number.as_u64().unwrap_or(0))
        }
        ('f', Value::Number(number)) => {
            format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or(0.0))
        }
        ('g', Value::Number(number)) => number.to_string(),
        ('d' | 'q' | 't' | 'x' | 'f' | 'g', _) => return unfit(),
        (other, _) => return Err(format!("printf: the verb %{other} is not supported")),
    };
    if let ('s', Some(most)) = (verb, precision) {
        text = text.chars().take(most).collect();
    }
    Ok(match (left, zeros && value.is_number()) {
        (true, _) => format!("{text:<width$}"),
        (false, true) => match text.strip_prefix('-') {
            Some(digits) => format!("-{digits:0>width$}", width = width.saturating_sub(1)),
            None => format!("{text:0>width$}"),
        },
        (false, false) => format!("{text:>width$}"),
    })
}
