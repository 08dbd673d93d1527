//! `-o go-template`: Go's text/template, as far as people use it with calicoctl.
//!
//! The dot is what calicoctl gives: the list of what was read, each part of it a resource or a List
//! with Items. Fields may be written as Go has them (`.ObjectMeta.Name`, `.Spec.CIDR`) or as they
//! are in JSON (`.metadata.name`); one that a resource does not have is empty. Left out, with an
//! error: define, template, block, methods, ranges over numbers.

mod function;
mod parse;

use parse::{Block, Node, Operand, Pipeline, What};
use serde_json::Value;

/// What a template makes of a value; an error names the line.
pub(super) fn render(template: &str, dot: &Value) -> Result<String, String> {
    let nodes = parse::parse(template)?;
    let mut run = Run { text: String::new(), variables: vec![(String::new(), dot.clone())] };
    run.nodes(&nodes, dot)?;
    Ok(run.text)
}

/// How a list of nodes has ended.
#[derive(Debug, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run {
    text: String,
    /// The innermost last; that without a name is `$`.
    variables: Vec<(String, Value)>,
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            let flow = self.node(node, dot).map_err(|error| match error.starts_with("line ") {
                true => error,
                false => format!("line {}: {error}", node.line),
            })?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        let depth = self.variables.len();
        let flow = match &node.what {
            What::Text(text) => {
                self.text.push_str(text);
                return Ok(Flow::On);
            }
            What::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match pipeline.sets.is_empty() {
                    true => self.text.push_str(&function::printed(&value)),
                    false => self.set(pipeline, &[value])?,
                }
                return Ok(Flow::On);
            }
            What::If(block) | What::With(block) => {
                let value = self.pipeline(&block.pipeline, dot)?;
                if !block.pipeline.sets.is_empty() {
                    self.set(&block.pipeline, std::slice::from_ref(&value))?;
                }
                let inner = if matches!(node.what, What::With(_)) { &value } else { dot };
                match function::is_true(&value) {
                    true => self.nodes(&block.body, inner)?,
                    false => self.nodes(&block.other, dot)?,
                }
            }
            What::Range(block) => self.range(block, dot)?,
            What::Break => return Ok(Flow::Break),
            What::Continue => return Ok(Flow::Continue),
        };
        self.variables.truncate(depth);
        Ok(flow)
    }

    fn range(&mut self, block: &Block, dot: &Value) -> Result<Flow, String> {
        let depth = self.variables.len();
        let turns: Vec<(Value, Value)> = match self.pipeline(&block.pipeline, dot)? {
            Value::Null => Vec::new(),
            Value::Array(values) => {
                let numbers = (0..values.len()).map(Value::from);
                numbers.zip(values).collect()
            }
            Value::Object(object) => {
                let mut all: Vec<_> = object.into_iter().collect();
                all.sort_by(|one, other| one.0.cmp(&other.0));
                all.into_iter().map(|(name, value)| (Value::from(name), value)).collect()
            }
            other => return Err(format!("range can't iterate over {other}")),
        };
        if turns.is_empty() {
            return self.nodes(&block.other, dot);
        }
        for (key, value) in turns {
            match block.pipeline.sets.len() {
                0 => {}
                1 => self.set(&block.pipeline, std::slice::from_ref(&value))?,
                _ => self.set(&block.pipeline, &[key, value.clone()])?,
            }
            let flow = self.nodes(&block.body, &value)?;
            self.variables.truncate(depth);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, pipeline: &Pipeline, values: &[Value]) -> Result<(), String> {
        for (name, value) in pipeline.sets.iter().zip(values) {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
                continue;
            }
            let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
            let (_, place) = known.ok_or_else(|| format!("undefined variable ${name}"))?;
            place.clone_from(value);
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(
        &mut self,
        command: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let (first, rest) = command.split_first().ok_or("a command is missing")?;
        let Operand::Function(name) = first else {
            return match rest.is_empty() && last.is_none() {
                true => self.operand(first, dot),
                false => Err("arguments are for functions only".to_owned()),
            };
        };
        if matches!(name.as_str(), "and" | "or") {
            let mut value = None;
            for operand in rest {
                let found = self.operand(operand, dot)?;
                let decided = function::is_true(&found) == (name == "or");
                value = Some(found);
                if decided {
                    return Ok(value.unwrap_or_default());
                }
            }
            return last.or(value).ok_or_else(|| format!("{name} has no arguments"));
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(last);
        function::call(name, &arguments)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => fields(dot, path),
            Operand::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("undefined variable ${name}"))?;
                fields(value, path)
            }
            Operand::Function(name) => function::call(name, &[]),
            Operand::Bracket(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                fields(&value, path)
            }
        }
    }
}

fn fields(value: &Value, path: &[String]) -> Result<Value, String> {
    let mut value = value;
    for name in path {
        value = match value {
            Value::Null => return Ok(Value::Null),
            Value::Object(_) => field(value, name),
            other => return Err(format!("can't evaluate field {name} in {other}")),
        };
    }
    Ok(value.clone())
}

/// A field by its name in JSON or in Go, where that of the metadata are the resource's as well.
fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    if name == "TypeMeta" {
        return value;
    }
    let name = if matches!(name, "ObjectMeta" | "ListMeta") { "metadata" } else { name };
    let named = |value: &'a Value| {
        let object = value.as_object()?;
        let alike = || object.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        object.get(name).or_else(|| alike().map(|(_, value)| value))
    };
    named(value).or_else(|| named(value.get("metadata")?)).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests;
