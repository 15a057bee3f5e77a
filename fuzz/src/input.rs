//! An input is the bytes that a stranger sends and, after its last 0xff, a plan of what is done with them. No text
//! has that byte, so that any file, a fixture of the tests too, is an input without a plan.

/// What the fuzzer made up.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What a stranger sends.
    pub sent: &'a [u8],
    /// What is done with it; where there is none, everything is.
    pub plan: Option<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// The input that `data` is.
    #[must_use]
    pub fn of(data: &'a [u8]) -> Self {
        match data.iter().rposition(|byte| *byte == 0xff) {
            Some(at) => Self { sent: &data[..at], plan: Some(&data[at + 1..]) },
            None => Self { sent: data, plan: None },
        }
    }

    /// A byte of the plan; 0 where it has none.
    #[must_use]
    pub fn planned(&self, at: usize) -> u8 {
        self.plan.and_then(|plan| plan.get(at)).copied().unwrap_or(0)
    }

    /// The one of `all` that the plan's first byte chooses; all of them without a plan.
    #[must_use]
    pub fn chosen<'t, T>(&self, all: &'t [T]) -> &'t [T] {
        match self.plan {
            Some(_) => {
                let at = usize::from(self.planned(0)) % all.len();
                &all[at..=at]
            }
            None => all,
        }
    }
}
