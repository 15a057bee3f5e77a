//! A parser that forgives whatever it can, as many do: it takes lines that end in any way, cuts at
//! every semicolon, ignores case, blanks, preamble and epilogue, and decodes what looks encoded.

/// The contents of all parts that somebody might take for the field `wanted`.
pub fn contents_of(body: &[u8], boundary: &str, wanted: &str) -> Vec<String> {
    let parts = parts(body, boundary);
    parts
        .iter()
        .filter(|part| part.names.iter().any(|name| is_like(name, wanted)))
        .map(|part| part.content.clone())
        .collect()
}

struct Part {
    names: Vec<String>,
    content: String,
}

fn is_like(name: &str, wanted: &str) -> bool {
    let name = name.trim().replace('\\', "").to_lowercase();
    let decoded = name.replace("%65", "e").replace("%6e", "n");
    [name, decoded].iter().any(|name| name.split('[').next() == Some(wanted))
}

/// One character for each byte.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn parts(body: &[u8], boundary: &str) -> Vec<Part> {
    let text = text(body).replace("\r\n", "\n").replace('\r', "\n");
    let (plain, quoted) = (format!("--{boundary}"), format!("--\"{boundary}\""));
    let mut parts: Vec<Vec<&str>> = Vec::new();
    for line in text.split('\n') {
        let line = line.trim_end();
        if line.starts_with(&plain) || line.starts_with(&quoted) {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(line);
        }
    }
    parts.iter().map(|lines| part(lines)).collect()
}

fn part(lines: &[&str]) -> Part {
    let end = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let head = lines[..end].join("\n").replace("\n ", " ").replace("\n\t", " ");
    let is_disposition = |line: &&str| line.split(':').next().unwrap().trim().to_lowercase() == "content-disposition";
    let disposition = head.lines().filter(is_disposition);
    let names = disposition.flat_map(|line| line.split(';')).filter_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let key = key.trim().trim_matches('"').to_lowercase();
        let value = value.trim().trim_matches(['"', '\\']);
        ["name", "name*"].contains(&key.as_str()).then(|| value.rsplit('\'').next().unwrap().to_owned())
    });
    Part { names: names.collect(), content: lines.get(end + 1..).unwrap_or_default().join("\n") }
}
