//! Waiting for conditions, never for time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at. It bounds how late a wait ends, nothing else.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks at `condition` until it is `Ok(Some(value))`.
///
/// `Ok(None)` means "not yet"; an error ends the wait at once, so that a server's death is not waited out.
///
/// # Errors
/// The condition's own error, or that `what` did not happen within `limit`.
pub async fn until<T, F, C>(what: &str, limit: Duration, mut condition: C) -> Result<T>
where
    C: FnMut() -> F,
    F: Future<Output = Result<Option<T>>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if started.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move { Ok((seen == 3).then_some(seen)) }
        })
        .await
        .expect("comes true");
        assert_eq!(value, 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_comes_true_is_named() {
        let error =
            until::<(), _, _>("the sea is dry", Duration::from_millis(1), || async { Ok(None) }).await;
        assert!(error.expect_err("never").to_string().starts_with("the sea is dry"));
    }
}
