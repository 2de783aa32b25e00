//! The scheduler from outside: its stories one by one, and thousands of lives of it under a simulator.

mod farm;
mod simulation;
mod stories;
