//! What a connection costs that is there and does nothing.

use crate::FIND_MISSING;
use crate::raw::{DATA, RawConnection, whole_call};
use crate::siege::Siege;

const CONNECTIONS: u64 = 2000;
/// Of these, 12 KiB are the pages that HTTP/2's three fixed buffers (16, 8 and 4 KiB) touch, and about 7 what it keeps of streams.
const BYTES_MAX: u64 = 22_500;

/// Builds keep their connections open between builds; ten thousand of them must be cheap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_little() {
    let siege = Siege::lay().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = RawConnection::greeted(&siege.server, &[]).await;
        connection.send(&whole_call(1, FIND_MISSING, b"")).await.expect("the server reads");
        assert!(connection.next_of(DATA).await.is_some(), "an answer");
        idle.push(connection);
    }
    let each = siege.grown_bytes() / CONNECTIONS;
    println!("an idle connection costs {each} bytes");
    assert!(each < BYTES_MAX, "{each} bytes each");
    siege.ordinary_calls(1).await;
    drop(idle);
    siege.lift().await;
}
