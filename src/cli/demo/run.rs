//! `keymeter demo`: something to try, without any set-up.

use crate::{
    cli::{
        app::{App, Signals},
        demo::{Demo, Ports},
        serve::{forbid_core_dumps, runtime, stop},
    },
    observe::{access_log::AccessLog, process_log},
};

pub(in crate::cli) fn run(ports: Ports) -> Result<(), Box<dyn std::error::Error>> {
    process_log::start()?;
    forbid_core_dumps();
    let runtime = runtime(None)?;
    let log = AccessLog::to(std::io::stdout())?;
    let ended: Result<(), Box<dyn std::error::Error>> = runtime.block_on(async {
        let signals = Signals::new()?;
        let demo = Demo::start(ports, log.clone()).await?;
        println!("{}", demo.introduction());
        let mut app = App { server: demo.server, control: None, handover: None };
        signals.until_stopped(&mut app).await;
        Ok(())
    });
    stop(runtime, &log);
    ended
}
