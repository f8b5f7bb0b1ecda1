//! What fills a [`Builder`](crate::build::Builder).

mod image;
mod tar;
