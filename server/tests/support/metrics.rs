//! What the server says of itself at `/metrics`.

use std::collections::BTreeMap;

use http::Method;

use super::http::request;
use super::process::Server;

/// Samples by name and labels, as they are written.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) async fn of(server: &Server) -> Self {
        let page = request(server, Method::GET, "/metrics", "").await;
        let text = String::from_utf8(page.body.to_vec()).expect("the page is text");
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// One sample; a missing one fails the test.
    pub(crate) fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no sample {name} among {:?}", self.0.keys()))
    }

    /// As `get`, of what counts whole things.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.get(name) as u64
    }

    /// Calls of a gRPC method, however they ended.
    pub(crate) fn calls(&self, method: &str) -> f64 {
        let label = format!("method=\"{method}\"");
        let calls = self.0.iter().filter(|(name, _)| name.starts_with("cask_grpc_requests_total{"));
        calls.filter(|(name, _)| name.contains(&label)).map(|(_, value)| value).sum()
    }

    /// gRPC calls whose clients gave them up.
    pub(crate) fn cancelled_calls(&self) -> f64 {
        let calls = self.0.iter().filter(|(name, _)| name.starts_with("cask_grpc_requests_total{"));
        calls.filter(|(name, _)| name.contains("code=\"CANCELLED\"")).map(|(_, value)| value).sum()
    }

    /// What is used of each budget that is not at 0.
    pub(crate) fn budgets_in_use(&self) -> Vec<(&str, f64)> {
        let used = self.0.iter().filter(|(name, value)| name.starts_with("cask_budget_used{") && **value != 0.0);
        used.map(|(name, value)| (name.as_str(), *value)).collect()
    }
}
