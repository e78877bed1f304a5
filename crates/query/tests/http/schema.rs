//! As much of JSON Schema as the `OpenAPI` document uses.

use serde_json::Value as Json;

/// Where `value` is not what `schema` says. Fields of objects that the schema does not name are problems too, unless it
/// names none or allows others: an undocumented field is a mistake of the document.
pub(crate) fn problems(document: &Json, schema: &Json, value: &Json, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut named = Vec::new();
    let mut open = false;
    check(document, schema, value, at, &mut found, &mut named, &mut open);
    found
}

fn check(
    document: &Json,
    schema: &Json,
    value: &Json,
    at: &str,
    found: &mut Vec<String>,
    named: &mut Vec<String>,
    open: &mut bool,
) {
    collect(document, schema, value, at, found, named, open);
    if let (Some(fields), false, false) = (value.as_object(), *open, named.is_empty()) {
        found.extend(fields.keys().filter(|f| !named.contains(f)).map(|f| format!("{at}.{f} is not documented")));
    }
}

fn collect(
    document: &Json,
    schema: &Json,
    value: &Json,
    at: &str,
    found: &mut Vec<String>,
    named: &mut Vec<String>,
    open: &mut bool,
) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = document.pointer(target.trim_start_matches('#')).expect("references lead somewhere");
        return collect(document, target, value, at, found, named, open);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect(document, part, value, at, found, named, open);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        if !choices.iter().any(|choice| problems(document, choice, value, at).is_empty()) {
            found.push(format!("{at} is none of its choices: {value}"));
        }
        *open = true;
    }
    let types: Vec<&str> = match &schema["type"] {
        Json::String(one) => vec![one],
        Json::Array(many) => many.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.contains(&kind(value)) {
        found.push(format!("{at} is {} and not {types:?}", kind(value)));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{at} is {value}"));
    }
    for field in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
        if value.get(field).is_none() {
            found.push(format!("{at}.{field} is missing"));
        }
    }
    *open |= !schema["additionalProperties"].is_null();
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        named.push(name.clone());
        if let Some(field) = value.get(name) {
            found.extend(problems(document, of, field, &format!("{at}.{name}")));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (i, item) in values.iter().enumerate() {
            found.extend(problems(document, items, item, &format!("{at}[{i}]")));
        }
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
