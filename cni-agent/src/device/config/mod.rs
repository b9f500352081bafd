//! PURE: the configuration's text to a plan.
