//! What a handler leaves behind.

use std::net::TcpListener;
use std::num::NonZeroUsize;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::*;
use crate::config::{self, Flags, Sources};
use crate::proxy::upstream::Directory;

/// A configuration whose store answers nothing, and whose servers are looked after.
fn config(store: &TcpListener) -> Arc<Config> {
    let text = format!(
        "listen = '127.0.0.1:0'\nupstream = 'app'\nworkers = 1\nengine = 'redis'\n\
         upstreams.app.servers = ['http://name.invalid:1', 'http://127.0.0.1:1']\n\
         upstreams.app.health.interval = '1h'\n\
         [cookies]\nsecret = '0123456789abcdef0123456789abcdef'\n\
         [storage]\nurl = 'redis://{}'\nconnect_timeout = '100ms'\n",
        store.local_addr().unwrap()
    );
    let sources = Sources {
        file: Some(("pycket.toml".to_owned(), text)),
        environment: Vec::new(),
        flags: Flags::default(),
        processors: NonZeroUsize::MIN,
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    Arc::new(config::load(sources).unwrap().0)
}

fn make(config: &Arc<Config>) -> impl Future<Output = Result<Proxy, BoxError>> {
    let shared = Shared::for_storage(&config.storage);
    let upstreams = Upstreams::new(config, &mut Directory::default()).unwrap();
    let worker = Worker {
        index: 0,
        tasks: Tasks::default(),
    };
    Proxy::for_worker(Arc::clone(config), shared, upstreams, worker)
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until no task is left.
async fn idle() {
    let idle = async {
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(Duration::from_secs(20), idle).await;
    assert!(waited.is_ok(), "{} tasks are left", tasks());
}

#[tokio::test]
async fn what_goes_on_for_a_handler_ends_with_it() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = make(&config(&store)).await.unwrap();
    // Two health checks, a name, the connection and who watches it, purging and flushing.
    assert!(tasks() >= 7, "{}", tasks());
    drop(proxy);
    idle().await;
}

#[tokio::test]
async fn a_handler_that_is_given_up_leaves_nothing() {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = config(&store);
    let making = async {
        let made = make(&config).await;
        panic!("the store does not answer: {made:?}");
    };
    tokio::select! {
        biased;
        () = making => {}
        () = tokio::task::yield_now() => {}
    }
    idle().await;
}
