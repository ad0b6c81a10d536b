//! A look at the lake that is taken again when the connection breaks, for commands: looking changes nothing, and nobody repeats a command of an
//! hour for one answer that was lost. The live sink repeats whole steps instead, and says so.

use shared::backoff::Backoff;

use crate::lake::LakeError;

const ATTEMPTS_MAX: u32 = 5;

/// The last attempt's answer. `look` must not change anything, in the lake or in the caller, when it fails.
///
/// # Errors
/// As `look`, at once if another look cannot help.
pub async fn look_again<T>(mut look: impl AsyncFnMut() -> Result<T, LakeError>) -> Result<T, LakeError> {
    let mut backoff = Backoff::default();
    loop {
        match look().await {
            Err(LakeError::Unavailable { retry_after, .. }) if backoff.attempts() + 1 < ATTEMPTS_MAX => {
                tokio::time::sleep(backoff.next_delay_at_least(retry_after)).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_look_is_taken_again_a_refused_one_is_not() {
        let broken = || LakeError::Unavailable { cause: "broke".into(), retry_after: None };
        let mut looks = 0;
        let answer = look_again(async || {
            looks += 1;
            if looks < 3 { Err(broken()) } else { Ok(looks) }
        })
        .await;
        assert!(matches!(answer, Ok(3)), "{answer:?}");

        let mut looks = 0;
        let answer: Result<(), _> = look_again(async || {
            looks += 1;
            Err(LakeError::Conflict)
        })
        .await;
        assert!(matches!(answer, Err(LakeError::Conflict)) && looks == 1);
    }
}
