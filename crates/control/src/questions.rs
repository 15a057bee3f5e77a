//! Bounds of concurrent usage queries, the calls that cost the database most. Of one user and of all users only so many
//! run at once that look-ups and changes always find a connection; further queries wait for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::error::ApiError;

/// Questions of one user, and of all together, that are answered at once: half of the connections for reading.
const OF_ONE: usize = 2;
const OF_ALL: usize = 4;

/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of those who ask.
pub struct Questions {
    all: Arc<Semaphore>,
    /// Of the users who ask or wait at the moment.
    users: Mutex<HashMap<String, Weak<Semaphore>>>,
    patience: Duration,
}

impl Default for Questions {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(OF_ALL)), users: Mutex::default(), patience: PATIENCE }
    }
}

/// A question's turn, which ends when this is dropped.
pub struct Turn {
    _of_user: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Questions {
    /// Waits for the turn of a question of `user`, or of somebody who may ask as much as they like.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn turn(&self, user: Option<&str>) -> Result<Turn, ApiError> {
        let turn = async {
            let of_user = match user {
                Some(user) => Some(self.of(user).acquire_owned().await),
                None => None,
            };
            // Neither is ever closed.
            Some(Turn { _of_user: of_user.transpose().ok()?, _of_all: self.all.clone().acquire_owned().await.ok()? })
        };
        let turn = timeout(self.patience, turn).await.ok().flatten();
        turn.ok_or_else(|| ApiError::too_many_questions(self.patience))
    }

    fn of(&self, user: &str) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        if let Some(known) = users.get(user).and_then(Weak::upgrade) {
            return known;
        }
        users.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(OF_ONE));
        users.insert(user.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_holds_up_no_other_and_nobody_all() {
        let questions = Questions { patience: Duration::from_millis(10), ..Questions::default() };
        let mut turns = Vec::new();
        for _ in 0..OF_ONE {
            turns.push(questions.turn(Some("ada")).await.unwrap());
        }
        assert_eq!(questions.turn(Some("ada")).await.err().unwrap().retry_after(), Some(1));
        turns.push(questions.turn(Some("bob")).await.unwrap());
        turns.push(questions.turn(None).await.unwrap());
        assert!(questions.turn(None).await.is_err());
        turns.clear();
        questions.turn(Some("ada")).await.unwrap();
        questions.turn(Some("eve")).await.unwrap();
        assert_eq!(questions.users.lock().len(), 1, "nothing is kept of those who do not ask");
    }
}
