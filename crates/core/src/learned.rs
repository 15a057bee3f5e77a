//! How many tokens a prompt and an answer take, where nobody has counted them: what is published of a model's family, and
//! what its recent traffic taught.
//!
//! A table says what each family's chat template writes around a text and how its tokenizer differs from the one that is
//! here ([`Family`]). What upstreams state corrects the table, for each model and each key by itself ([`Learned`]): a few
//! factors that are fitted to the last counts. A key's requests are estimated by its own past, or by what most keys' past
//! says as long as it has none, so that no key's odd requests change what is reserved or charged for another's. A value
//! that is used is read once a request, without a lock ([`Figures`]).

mod families;
mod figures;
mod fit;
mod key_tag;
mod makeup;
mod models;
mod outputs;
mod template;
mod voices;

pub use figures::Figures;
pub use key_tag::KeyTag;
pub use makeup::{Answer, Prompt};
pub use models::LearnedModels;
pub use template::Family;
pub use voices::{Learned, Lesson};

/// The output expected of a model before 20 of its answers are known, in tokens.
pub const DEFAULT_OUTPUT: u64 = 1024;
