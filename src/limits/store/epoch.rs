//! To which data of the server of shared limits the store's amounts were added, in a small file of the store: the store's own
//! name, and the server's epoch.

use std::{fs, io, path::Path};

use keymeter_core::record::Session;

const FILE: &str = "shared";

/// The epoch that was kept last.
pub fn read(root: &Path) -> Option<String> {
    words(root).and_then(|(_, epoch)| epoch)
}

/// The name of the store, which stays.
pub fn identity(root: &Path) -> Option<String> {
    if let Some((name, _)) = words(root) {
        return Some(name);
    }
    let name = Session::generate().ok()?.as_str().to_owned();
    write(root, &name).ok()?;
    Some(name)
}

/// Keeps an epoch in the place of the one before.
pub fn set(root: &Path, epoch: &str) -> io::Result<()> {
    let name = identity(root).ok_or_else(|| io::Error::other("its file cannot be written"))?;
    write(root, &format!("{name} {epoch}"))
}

fn words(root: &Path) -> Option<(String, Option<String>)> {
    let text = fs::read_to_string(root.join(FILE)).ok()?;
    let mut words = text.split_whitespace().map(str::to_owned);
    Some((words.next()?, words.next()))
}

/// A crash leaves the file as it was, or as it is to be.
fn write(root: &Path, text: &str) -> io::Result<()> {
    let unfinished = root.join(format!("{FILE}.new"));
    fs::write(&unfinished, format!("{text}\n"))?;
    fs::rename(unfinished, root.join(FILE))
}
