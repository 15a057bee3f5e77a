//! The scripts that run on the server. Each counts in one atomic step. They are sent once, and again to a server that has
//! lost them.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use keymeter_core::limit::Limit;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs, aio::ConnectionLike, cmd};

/// All scripts.
pub(super) struct Scripts {
    pub admit: Script,
    pub settle: Script,
    pub renew: Script,
    pub retake: Script,
    pub status: Script,
    pub gateways: Script,
}

/// Where a script reads the time.
#[derive(Clone)]
pub(super) enum Clock {
    /// The server's own clock.
    Server,
    /// The last argument, in microseconds.
    #[cfg(test)]
    Set(Arc<std::sync::atomic::AtomicU64>),
}

const SERVER_CLOCK: &str = "local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
";

#[cfg(test)]
const SET_CLOCK: &str = "local function clock() return tonumber(ARGV[#ARGV]) end\n";

const BASE: &str = include_str!("base.lua");
const QUOTA: &str = include_str!("quota.lua");
const WINDOW: &str = include_str!("window.lua");
const SETTLE: &str = include_str!("settle.lua");

impl Scripts {
    pub(super) fn new(clock: &Clock) -> Self {
        let script = |parts: &[&str]| Script::new(clock, parts);
        Self {
            admit: script(&[BASE, QUOTA, WINDOW, SETTLE, include_str!("admit.lua")]),
            settle: script(&[BASE, QUOTA, WINDOW, SETTLE, include_str!("settle_subjects.lua")]),
            renew: script(&[include_str!("renew.lua")]),
            retake: script(&[include_str!("retake.lua")]),
            status: script(&[BASE, QUOTA, WINDOW, include_str!("status.lua")]),
            gateways: script(&[include_str!("gateways.lua")]),
        }
    }
}

/// One script.
pub(super) struct Script {
    script: redis::Script,
    #[cfg(test)]
    clock: Clock,
}

impl Script {
    fn new(clock: &Clock, parts: &[&str]) -> Self {
        let prelude = match clock {
            Clock::Server => SERVER_CLOCK,
            #[cfg(test)]
            Clock::Set(_) => SET_CLOCK,
        };
        Self {
            script: redis::Script::new(&[&[prelude], parts].concat().join("\n")),
            #[cfg(test)]
            clock: clock.clone(),
        }
    }

    /// A call that uses `keys`.
    pub(super) fn on<'script, Key: AsRef<str>>(&'script self, keys: &[Key]) -> Call<'script> {
        let mut command = cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        Call { script: self, command }
    }
}

/// A call of a script, with its arguments.
pub(super) struct Call<'script> {
    script: &'script Script,
    command: Cmd,
}

impl Call<'_> {
    /// Adds an argument.
    pub(super) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Adds the names of requests.
    pub(super) fn args<'names>(&mut self, names: impl IntoIterator<Item = &'names Arc<str>>) {
        for name in names {
            self.command.arg(&**name);
        }
    }

    /// Runs the call, and sends the script first if the server does not have it.
    pub(super) async fn run<T: FromRedisValue>(self, connection: &mut (impl ConnectionLike + Send)) -> RedisResult<T> {
        self.run_once_sent(connection, || ()).await
    }

    /// Runs the call, and calls `sent` once its place among all calls on this connection is fixed.
    pub(super) async fn run_once_sent<T: FromRedisValue>(
        self,
        connection: &mut (impl ConnectionLike + Send),
        sent: impl FnOnce(),
    ) -> RedisResult<T> {
        let mut answer = pin!(self.answer(connection));
        // The connection queues what it is given the first time that it is asked about it.
        let first = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        sent();
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => answer.await,
        }
    }

    async fn answer<T: FromRedisValue>(
        #[cfg_attr(not(test), allow(unused_mut, reason = "tests add the time"))] mut self,
        connection: &mut (impl ConnectionLike + Send),
    ) -> RedisResult<T> {
        #[cfg(test)]
        if let Clock::Set(time) = &self.script.clock {
            self.command.arg(time.load(std::sync::atomic::Ordering::SeqCst));
        }
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            answer => answer,
        }
    }
}

/// Whole numbers are exact below this in the scripts. A higher limit of a minute counts as none.
pub(super) const MOST: u64 = 1 << 53;

/// A limit as the scripts read it.
pub(super) fn number(limit: Limit) -> i64 {
    limit.number().filter(|number| *number < MOST).and_then(|number| i64::try_from(number).ok()).unwrap_or(-1)
}
