//! A throw-away mesh on one Linux machine.
