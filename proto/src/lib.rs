//! The gRPC vocabulary of Ichor. Generated code, committed; no logic.
