//! What deliveries may do: come twice, come in any order, be poison.
