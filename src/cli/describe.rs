//! `keymeter schema` and `man`: descriptions of keymeter for editors and readers. All are generated from
//! the code that reads the input.

use std::{
    io::{self, Write as _},
    path::Path,
};

use clap::Command;
use keymeter_config::schema;

#[derive(clap::Args)]
pub(super) struct SchemaArgs {
    /// Print the schema of a keys file instead of the configuration.
    #[arg(long)]
    keys: bool,
    /// Print every field of both files in Markdown, for reading.
    #[arg(long, conflicts_with = "keys")]
    reference: bool,
}

/// Prints the schema that was asked for.
pub(super) fn schema(arguments: &SchemaArgs) -> io::Result<()> {
    let text = match arguments {
        SchemaArgs { reference: true, .. } => schema::reference(),
        SchemaArgs { keys: true, .. } => format!("{:#}\n", schema::of_keys()),
        SchemaArgs { .. } => format!("{:#}\n", schema::of_configuration()),
    };
    print(text.as_bytes())
}

/// Prints the manual page of `command`, or writes it and those of its subcommands into a directory.
pub(super) fn manual(command: Command, directory: Option<&Path>) -> io::Result<()> {
    if let Some(directory) = directory {
        return clap_mangen::generate_to(command, directory);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(&page)
}

/// Prints, and ignores that a reader such as `head` has closed the pipe.
fn print(text: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
