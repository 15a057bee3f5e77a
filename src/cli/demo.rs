//! `keymeter demo`: something to try, without any set-up.

use crate::{
    cli::serve::{Signals, forbid_core_dumps, runtime, start_logging, stop},
    demo::Demo,
    gate::AccessLog,
};

pub(super) fn run(port: u16, admin_port: u16) -> Result<(), Box<dyn std::error::Error>> {
    start_logging();
    forbid_core_dumps();
    let runtime = runtime(None)?;
    let log = AccessLog::to(std::io::stdout())?;
    let ended: Result<(), Box<dyn std::error::Error>> = runtime.block_on(async {
        let signals = Signals::new()?;
        let demo = Demo::start(port, admin_port, log.clone()).await?;
        println!("{}", demo.introduction());
        signals.until_stopped(&demo.server).await;
        Ok(())
    });
    stop(runtime, &log);
    ended
}
