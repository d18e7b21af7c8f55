//! RFC 7396 and RFC 6902.

use serde_json::{Map, Value};

use super::canonical::size;

/// Operations in one patch; more are refused.
const OPERATIONS: usize = 1_024;

/// Merges: members that are null are taken out, objects are gone into, the rest is replaced.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Applies a patch and says how many bytes it added at the most. After an error the target is in
/// the middle of it.
pub(super) fn patch(target: &mut Value, patch: &Value, limit: usize) -> Result<usize, String> {
    let operations = patch.as_array().ok_or("a patch is an array")?;
    if operations.len() > OPERATIONS {
        return Err(format!("more than {OPERATIONS} operations"));
    }
    let mut added = 0;
    for (at, operation) in operations.iter().enumerate() {
        added += apply(target, operation).map_err(|why| format!("operation {at}: {why}"))?;
        if added > limit {
            return Err("the state would be larger than 4 MiB".into());
        }
    }
    Ok(added)
}

fn apply(target: &mut Value, operation: &Value) -> Result<usize, &'static str> {
    let member = |name| operation.get(name).and_then(Value::as_str);
    let value = || operation.get("value").cloned().ok_or("no value");
    let path = pointer(member("path").ok_or("no path")?)?;
    let from = || pointer(member("from").ok_or("no from")?);
    match member("op").ok_or("no op")? {
        "add" => add(target, &path, value()?),
        "remove" => remove(target, &path).map(|_| 0),
        "replace" => {
            let value = value()?;
            let added = size(&value);
            *find(target, &path).ok_or("nothing there")? = value;
            Ok(added)
        }
        "move" => {
            let from = from()?;
            if path.starts_with(&from) && path.len() > from.len() {
                return Err("into itself");
            }
            let value = remove(target, &from)?;
            add(target, &path, value)
        }
        "copy" => {
            let value = find(target, &from()?).ok_or("nothing to copy")?.clone();
            add(target, &path, value)
        }
        "test" => match find(target, &path) {
            Some(found) if *found == value()? => Ok(0),
            _ => Err("test failed"),
        },
        _ => Err("unknown op"),
    }
}

/// The parts of a JSON pointer, RFC 6901.
fn pointer(text: &str) -> Result<Vec<String>, &'static str> {
    let Some(rest) = text.strip_prefix('/') else {
        return if text.is_empty() {
            Ok(Vec::new())
        } else {
            Err("a pointer begins with /")
        };
    };
    Ok(rest
        .split('/')
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect())
}

/// An index as a pointer writes it: no sign, no leading zero.
fn index(part: &str) -> Option<usize> {
    let plain = part == "0" || !part.starts_with(['0', '+']);
    part.parse().ok().filter(|_| plain)
}

fn find<'a>(target: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(target, |value, part| match value {
        Value::Object(members) => members.get_mut(part),
        Value::Array(items) => items.get_mut(index(part)?),
        _ => None,
    })
}

fn add(target: &mut Value, path: &[String], value: Value) -> Result<usize, &'static str> {
    // The key, its quotes, a colon and a comma; escapes can make six bytes of one.
    let added = size(&value) + path.last().map_or(0, |key| key.len() * 6) + 4;
    let Some((last, parents)) = path.split_last() else {
        *target = value;
        return Ok(added);
    };
    match find(target, parents).ok_or("no parent")? {
        Value::Object(members) => {
            members.insert(last.clone(), value);
        }
        Value::Array(items) => {
            let at = if last == "-" {
                Some(items.len())
            } else {
                index(last)
            };
            let at = at.filter(|at| *at <= items.len()).ok_or("no such index")?;
            items.insert(at, value);
        }
        _ => return Err("no parent"),
    }
    Ok(added)
}

fn remove(target: &mut Value, path: &[String]) -> Result<Value, &'static str> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(std::mem::take(target));
    };
    match find(target, parents).ok_or("nothing there")? {
        Value::Object(members) => members.remove(last).ok_or("nothing there"),
        Value::Array(items) => match index(last).filter(|at| *at < items.len()) {
            Some(at) => Ok(items.remove(at)),
            None => Err("nothing there"),
        },
        _ => Err("nothing there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::canonical::parse;

    fn json(text: &str) -> Value {
        parse(text.as_bytes()).unwrap()
    }

    /// States, changes, and what comes of them.
    const MERGES: &[(&str, &str, &str)] = &[
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (
            r#"{"a":{"b":"c"}}"#,
            r#"{"a":{"b":"d","c":null}}"#,
            r#"{"a":{"b":"d"}}"#,
        ),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        (
            r#"{"a":{"b":1}}"#,
            r#"{"__proto__":{"a":1}}"#,
            r#"{"a":{"b":1},"__proto__":{"a":1}}"#,
        ),
        (
            "{}",
            r#"{"a":[null,{"b":null}],"10":1,"9":2}"#,
            r#"{"a":[null,{"b":null}],"10":1,"9":2}"#,
        ),
    ];

    /// The same; nothing where the patch cannot be applied.
    const PATCHES: &[(&str, &str, Option<&str>)] = &[
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux"}]"#,
            Some(r#"{"baz":"qux","foo":"bar"}"#),
        ),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            Some(r#"{"foo":["bar","qux","baz"]}"#),
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"remove","path":"/baz"}]"#,
            Some(r#"{"foo":"bar"}"#),
        ),
        (
            r#"{"foo":["bar","qux","baz"]}"#,
            r#"[{"op":"remove","path":"/foo/1"}]"#,
            Some(r#"{"foo":["bar","baz"]}"#),
        ),
        (
            r#"{"baz":"qux"}"#,
            r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            Some(r#"{"baz":"boo"}"#),
        ),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            Some(r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#),
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            Some(r#"{"foo":["all","cows","eat","grass"]}"#),
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            Some(r#"{"baz":"qux","foo":["a",2,"c"]}"#),
        ),
        (
            r#"{"baz":"qux"}"#,
            r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
            None,
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            Some(r#"{"foo":"bar","child":{"grandchild":{}}}"#),
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#,
            None,
        ),
        (
            r#"{"/":9,"~1":10}"#,
            r#"[{"op":"test","path":"/~01","value":10}]"#,
            Some(r#"{"/":9,"~1":10}"#),
        ),
        (
            r#"{"/":9,"~1":10}"#,
            r#"[{"op":"test","path":"/~01","value":"10"}]"#,
            None,
        ),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            Some(r#"{"foo":["bar",["abc","def"]]}"#),
        ),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"add","path":"/a/01","value":1}]"#,
            None,
        ),
        (
            r#"{"a":{"b":1}}"#,
            r#"[{"op":"move","from":"/a","path":"/a/b"}]"#,
            None,
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"copy","from":"/a","path":""}]"#,
            Some("1"),
        ),
        (r#"{"a":1}"#, r#"{"op":"copy"}"#, None),
        (r#"{"a":1}"#, r#"[{"op":"remove","path":""}]"#, Some("null")),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/__proto__","value":1}]"#,
            Some(r#"{"a":1,"__proto__":1}"#),
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"replace","path":"/toString","value":1}]"#,
            None,
        ),
        (
            r#"{"a":[1,2]}"#,
            r#"[{"op":"replace","path":"/a/1","value":null}]"#,
            Some(r#"{"a":[1,null]}"#),
        ),
        (
            r#"{"a":[1,2]}"#,
            r#"[{"op":"replace","path":"/a/-","value":3}]"#,
            None,
        ),
        (r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/2"}]"#, None),
        (
            r#"{"a":[1,2]}"#,
            r#"[{"op":"add","path":"/a/3","value":1}]"#,
            None,
        ),
        (
            r#"{"a":"text"}"#,
            r#"[{"op":"add","path":"/a/0","value":1}]"#,
            None,
        ),
        (
            r#"{"a":[{"b":1}]}"#,
            r#"[{"op":"replace","path":"/a/0/b","value":[2]}]"#,
            Some(r#"{"a":[{"b":[2]}]}"#),
        ),
        (
            r#"{"a":{"x":1,"y":[2]}}"#,
            r#"[{"op":"test","path":"/a","value":{"y":[2],"x":1}}]"#,
            Some(r#"{"a":{"x":1,"y":[2]}}"#),
        ),
        (
            r#"{"a":null}"#,
            r#"[{"op":"test","path":"/a","value":null},{"op":"test","path":"/b","value":null}]"#,
            None,
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"add","path":"/b","value":1},{"op":"test","path":"/a","value":2}]"#,
            None,
        ),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"b","value":1}]"#, None),
        (
            r#"{"a":1}"#,
            r#"[{"op":"merge","path":"/a","value":1}]"#,
            None,
        ),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/a"}]"#, None),
        (
            r#"{"a":{"b":1}}"#,
            r#"[{"op":"move","from":"/a","path":"/a"}]"#,
            Some(r#"{"a":{"b":1}}"#),
        ),
    ];

    /// `vectors/changes.json`, which others who follow a state check themselves by.
    /// `UPDATE_VECTORS=1` writes it anew.
    #[test]
    fn changes_are_those_of_the_vectors() {
        let case = |kind: &str, state: &str, change: &str, next: Option<&str>| {
            serde_json::json!({
                "kind": kind, "state": json(state), "change": json(change), "applied": next.is_some(),
                "next": next.map(json),
            })
        };
        let merges = MERGES
            .iter()
            .map(|it| case("merge", it.0, it.1, Some(it.2)));
        let patches = PATCHES.iter().map(|it| case("patch", it.0, it.1, it.2));
        let made = serde_json::json!({
            "about": "Changes of a state, and what comes of them. Made by crates/consensus/src/state/patch.rs with UPDATE_VECTORS=1.",
            "changes": merges.chain(patches).collect::<Vec<_>>(),
        });
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/changes.json");
        if std::env::var_os("UPDATE_VECTORS").is_some() {
            std::fs::write(path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
        }
        let kept: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(made, kept);
    }

    #[test]
    fn the_examples_of_rfc_7396() {
        for (target, change, expected) in MERGES {
            let mut value = json(target);
            merge(&mut value, json(change));
            assert_eq!(value, json(expected), "{target} {change}");
        }
    }

    #[test]
    fn the_examples_of_rfc_6902() {
        for (target, change, expected) in PATCHES {
            let mut value = json(target);
            let result = patch(&mut value, &json(change), 1 << 20);
            match expected {
                Some(expected) => {
                    assert_eq!((result.is_ok(), value), (true, json(expected)), "{change}")
                }
                None => assert!(result.is_err(), "{change}"),
            }
        }
    }

    #[test]
    fn copies_cannot_multiply_beyond_the_limit() {
        let mut value = json(r#"["0123456789"]"#);
        let copy = r#"{"op":"copy","from":"","path":"/-"}"#;
        let text = format!("[{}]", [copy; 60].join(","));
        assert!(patch(&mut value, &json(&text), 1 << 20).is_err());
    }
}
