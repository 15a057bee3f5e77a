//! `keymeter schema`, `completions` and `man`: what keymeter says of itself, for editors, shells and readers. All of it is made
//! from what the program reads by.

use std::{
    io::{self, Write as _},
    path::Path,
};

use clap::Command;
use clap_complete::Shell;
use keymeter_config::schema;

#[derive(clap::Args)]
pub(super) struct SchemaArgs {
    /// Of a file of keys, not of the configuration.
    #[arg(long)]
    keys: bool,
    /// Every field of both in Markdown, for reading.
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

/// Prints the completions of `command` for a shell.
pub(super) fn completions(mut command: Command, shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "keymeter", &mut script);
    print(&script)
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

/// A reader that has enough, such as `head`, is no fault.
fn print(text: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(text) {
        Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
