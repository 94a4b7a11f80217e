//! Who may import whom: a module imports only from lines below its own, modules of
//! one line are independent, and a module that stands in no line is a complaint.

use super::source::{Code, File, Named};

/// The lines, highest first.
const LINES: [&[&str]; 10] = [
    &["main"],
    &["cli"],
    &["testing"],
    &["grid"],
    &["dispatcher", "monitor", "nameservice"],
    &["client", "worker"],
    &["discovery", "http"],
    &["metrics", "rpc", "store"],
    &["clock", "security", "shutdown", "telemetry", "wire"],
    &["core"],
];

/// What a line would allow and the table does not.
const NEVER: [(&str, &str); 4] =
    [("client", "store"), ("worker", "store"), ("monitor", "store"), ("nameservice", "store")];

/// What a line would not allow and the table does, with the reason.
const NOTED: [(&str, &str); 1] = [
    // The policy's test walks the descriptors of the contract.
    ("security", "wire"),
];

/// What a file imports and must not.
pub(crate) fn complaints(file: &File) -> Vec<String> {
    let Some(own) = module_of(&file.path) else { return Vec::new() };
    let Some(top) = own.first() else { return complaints_of_the_root(file) };
    if line_of(top).is_none() {
        return vec![format!("{}: {top} stands in no line of the table", file.path)];
    }
    let code = Code::of(&file.text);
    let mut complaints = Vec::new();
    for path in ["crate", "super", "taskgrid"].into_iter().flat_map(|root| code.paths(root)) {
        let Some(target) = target_of(&own, &path) else { continue };
        if target != *top && !may_import(top, &target) {
            let written = path.names.join("::");
            complaints.push(format!("{}:{}: {top} imports {written}", file.path, path.line));
        }
    }
    complaints
}

/// The crate's root declares modules and shows their items; the program's may use
/// all of them.
fn complaints_of_the_root(file: &File) -> Vec<String> {
    let code = Code::of(&file.text);
    let declared = code.named(&["mod"]).into_iter();
    let used = ["crate", "taskgrid"].into_iter().flat_map(|root| code.paths(root));
    let used = used.filter_map(|path| Some((path.line, path.names.get(1)?.clone())));
    let is_module = |name: &str| name.starts_with(char::is_lowercase);
    let unknown = declared
        .chain(used)
        .filter(|(_, name)| is_module(name) && line_of(name).is_none() && name != "tests");
    unknown.map(|(line, name)| format!("{}:{line}: {name} is in no line", file.path)).collect()
}

/// The path of a file's module; the roots have none. Nothing for files that are not
/// the crate's.
fn module_of(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    Some(parts)
}

/// The module of the table that a path leads to; `None` if it does not leave its own.
fn target_of(own: &[String], path: &Named) -> Option<String> {
    let ups = path.names.iter().take_while(|name| *name == "super").count();
    let depth = own.len() + path.depth;
    if ups > 0 && ups < depth {
        return None;
    }
    // `crate` alone, as in `pub(crate)`, leads nowhere.
    path.names.get(ups.max(1)).cloned()
}

fn may_import(top: &str, target: &str) -> bool {
    let pair = (top, target);
    let (Some(from), Some(to)) = (line_of(top), line_of(target)) else { return false };
    NOTED.contains(&pair) || from < to && !NEVER.contains(&pair)
}

fn line_of(module: &str) -> Option<usize> {
    LINES.iter().position(|line| line.contains(&module))
}
