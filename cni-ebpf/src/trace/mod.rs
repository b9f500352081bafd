//! What `fairlead trace` sees. In the object that is attached otherwise all of it is nothing, so that nobody
//! pays for what nobody asks; [`on`] is the other object's.

#[cfg(not(feature = "trace"))]
mod off;
#[cfg(feature = "trace")]
mod on;

#[cfg(not(feature = "trace"))]
pub(crate) use off::*;
#[cfg(feature = "trace")]
pub(crate) use on::*;
