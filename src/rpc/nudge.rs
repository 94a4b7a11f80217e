//! A call must not be lost between a caller and a connection that ends at this moment.
//!
//! hyper hands a request to the task of its connection through a channel, and a request that
//! is put into it while that task ends stays there, until somebody looks whether the
//! connection is still good: the next caller does (a race of several threads, as in
//! <https://github.com/hyperium/hyper/issues/4122>; some one in 100,000 lost connections here).
//! Where there is no next caller, the first one would wait for ever. So whoever waits long
//! for the beginning of an answer makes another call, which costs little, and asks for
//! nothing. A lost one then ends as any that its connection did not survive.
//!
//! What this module does not do: it sets no deadline, and tries nothing again.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Who has waited so long for an answer looks whether the connection is still good, and so
/// often again. More than most answers take, and about what a dead peer takes to be noticed.
const NUDGE_AFTER: Duration = Duration::from_secs(10);

/// Calls through `S`, of which none is lost for good.
#[derive(Debug, Clone)]
pub struct Nudged<S> {
    calls: S,
}

/// A channel to a peer, as the clients of all services take it.
pub type Channel = Nudged<tonic::transport::Channel>;

impl<S> Nudged<S> {
    pub(super) fn new(calls: S) -> Self {
        Self { calls }
    }
}

impl<S> Service<Request<Body>> for Nudged<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<StdError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.calls.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, calls) = (self.calls.call(request), self.calls.clone());
        Box::pin(async move {
            let mut answer = pin!(answer);
            loop {
                if let Ok(answer) = timeout(NUDGE_AFTER, &mut answer).await {
                    return answer;
                }
                let nudge = timeout(NUDGE_AFTER, nudge(calls.clone()));
                tokio::select! {
                    answer = &mut answer => return answer,
                    _ = nudge => {}
                }
            }
        })
    }
}

/// A call whose answer nobody needs.
async fn nudge<S>(calls: S)
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<StdError>,
{
    drop(HealthClient::new(calls).check(HealthCheckRequest::default()).await);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    /// Loses the first call, until there is another.
    #[derive(Clone, Default)]
    struct Losing {
        calls: Arc<Mutex<Vec<String>>>,
        lost: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    }

    impl Service<Request<Body>> for Losing {
        type Response = Response<Body>;
        type Error = std::io::Error;
        type Future = BoxFuture<Response<Body>, Self::Error>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let mut calls = self.calls.lock().unwrap();
            calls.push(request.uri().path().to_owned());
            if calls.len() > 1 {
                drop(self.lost.lock().unwrap().take());
                return Box::pin(async { Ok(Response::new(Body::empty())) });
            }
            let (found, is_found) = oneshot::channel();
            *self.lost.lock().unwrap() = Some(found);
            Box::pin(async {
                is_found.await.unwrap_err();
                Err(std::io::Error::other("the connection has ended"))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_call_ends_once_somebody_looks() {
        let losing = Losing::default();
        let (began, mut channel) = (Instant::now(), Nudged::new(losing.clone()));
        let request = Request::builder().uri("/a/Call").body(Body::empty()).unwrap();
        let error = channel.call(request).await.unwrap_err();
        assert_eq!(error.to_string(), "the connection has ended");
        assert_eq!(began.elapsed(), NUDGE_AFTER);
        let calls = losing.calls.lock().unwrap().clone();
        assert_eq!(calls, ["/a/Call", "/grpc.health.v1.Health/Check"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_takes_one_call() {
        let losing = Losing::default();
        losing.calls.lock().unwrap().push("an earlier one".to_owned());
        let mut channel = Nudged::new(losing.clone());
        channel.call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(losing.calls.lock().unwrap().len(), 2);
    }
}
