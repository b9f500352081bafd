//! stub
pub mod watched;
use std::sync::Arc;
#[derive(Default, Debug, Clone)]
pub struct Configured {
    pub plan: Arc<super::plan::Plan>,
    pub problems: Vec<String>,
}
