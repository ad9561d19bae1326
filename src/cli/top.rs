//! `longshore top`: the table of the page, live in a terminal, or printed once.
//!
//! It watches a server as the page does, so a server with ten thousand models sends only what
//! changes. When the connection is lost, the last table stays, and the program connects again.
//!
//! - `client`: the requests to the server.
//! - `rows`: sorts, filters and formats; pure functions.
//! - `view`: what is on the screen, and what a key does; pure functions.

pub(super) mod client;
mod rows;
mod view;

use std::io::{IsTerminal, stdout};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::table::print;
use crate::config::TopArgs;

use client::{Client, News};
use rows::Order;
use view::{Link, View};

/// Time until the next attempt to connect.
const AGAIN: Duration = Duration::from_secs(2);

/// Time between two drawings without news, so that ages advance.
const REDRAW: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: &TopArgs) -> Result<()> {
    let client = Client::new(&args.url)?;
    if args.once {
        let state = client.state().await?;
        return match args.json {
            true => print(format_args!("{}\n", serde_json::to_string_pretty(&state)?)).map_err(Into::into),
            false => {
                let filter = args.filter.as_deref().unwrap_or_default();
                let table = rows::printed(&state, Order::of(args.sort), filter);
                print(table).map_err(Into::into)
            }
        };
    }
    ensure!(
        stdout().is_terminal(),
        "standard output is not a terminal; use --once for a table, or --once --json for programs"
    );
    // An address that does not answer is an error, not an empty screen.
    let mut news = client.watch().await?;
    let mut view = View::new(
        client.address(),
        Order::of(args.sort),
        args.filter.clone().unwrap_or_default(),
    );
    let mut keys = keys();
    let mut redraw = interval(REDRAW);
    let mut terminal = ratatui::try_init().context("open the terminal")?;
    let ended = async {
        loop {
            terminal
                .draw(|frame| view.draw(frame))
                .context("draw on the terminal")?;
            tokio::select! {
                key = keys.recv() => match key {
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                        if view.press(key) {
                            return Ok(());
                        }
                    }
                    Some(_) => {}
                    None => return Ok(()),
                },
                next = news.next() => match next {
                    Ok(News::State(state)) => view.show(*state),
                    Ok(News::Change(change)) => view.apply(*change),
                    Err(error) => {
                        view.link = Link::Lost(format!("{error:#}"));
                        news = News::after(AGAIN, &client);
                    }
                },
                _ = redraw.tick() => {}
            }
        }
    }
    .await;
    ratatui::restore();
    ended
}

/// Reads the keyboard on a thread of its own, because reading blocks.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(64);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

impl News {
    /// The news of a new connection, which is opened after a pause.
    fn after(pause: Duration, client: &Client) -> client::Watch {
        let client = client.clone();
        client::Watch::opening(async move {
            sleep(pause).await;
            client.open().await
        })
    }
}
