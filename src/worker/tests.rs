mod ending;
mod fake;
mod running;
mod sessions;
