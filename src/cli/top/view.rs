//! The screen, and the effect of each key.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState, Wrap};

use super::rows::{COLUMNS, CONTAINER_COLUMNS, Order, cells, containers, select, shown, summary};
use crate::cli::table::{bytes, millis};
use crate::config::TopSort;
use crate::page::state::{Change, ModelRow, ModelState, ServerKind, State};
use crate::page::time::now;
use crate::telemetry::escape::plain;

/// Rows that Page Up and Page Down move.
const PAGE: usize = 20;

/// The connection to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    Live,
    /// The connection was lost, for this reason; the program connects again.
    Lost(String),
}

/// The screen.
#[derive(Debug)]
pub struct View {
    address: String,
    state: State,
    order: Order,
    filter: String,
    /// Whether keys go into the filter.
    is_typing: bool,
    /// The name of the chosen model; the choice stays with the model when the order changes.
    chosen: Option<String>,
    /// Whether the chosen model's details are shown.
    has_details: bool,
    pub link: Link,
}

impl View {
    pub fn new(address: String, order: Order, filter: String) -> Self {
        Self {
            address,
            state: State::default(),
            order,
            filter,
            is_typing: false,
            chosen: None,
            has_details: false,
            link: Link::Live,
        }
    }

    /// Shows a whole new state.
    pub fn show(&mut self, state: State) {
        self.state = state;
        self.link = Link::Live;
    }

    pub fn apply(&mut self, change: Change) {
        self.state.apply(change);
        self.link = Link::Live;
    }

    /// Does what a key stands for. Returns whether the program ends.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code == KeyCode::Char('c');
        }
        if self.is_typing {
            match key.code {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            return false;
        }
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Char('/') => {
                self.is_typing = true;
                self.has_details = false;
            }
            KeyCode::Esc if self.has_details => self.has_details = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter => self.has_details = !self.has_details && self.position().is_some(),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|at, _| at + 1),
            KeyCode::PageUp => self.go(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.go(|at, _| at + PAGE),
            KeyCode::Home => self.go(|_, _| 0),
            KeyCode::End => self.go(|_, count| count),
            KeyCode::Char(letter) => {
                if let Some(by) = column(letter) {
                    self.order = self.order.chosen(by);
                }
            }
            _ => {}
        }
        false
    }

    fn selected(&self) -> Vec<&ModelRow> {
        select(&self.state.models, self.order, &self.filter)
    }

    /// The position of the chosen model; the first one if it is not in the table any more.
    fn position(&self) -> Option<usize> {
        let selected = self.selected();
        let chosen = self.chosen.as_deref();
        let found = selected.iter().position(|model| Some(&*model.name) == chosen);
        found.or((!selected.is_empty()).then_some(0))
    }

    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        let Some(at) = self.position() else { return };
        let selected = self.selected();
        let last = selected.len() - 1;
        self.chosen = Some(selected[to(at, last).min(last)].name.clone());
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let [head, sums, body, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(2),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        frame.render_widget(Paragraph::new(summary(&self.state)).wrap(Wrap { trim: true }), sums);
        match self.state.server.kind {
            ServerKind::Endpoint => self.draw_containers(frame, body),
            ServerKind::Serve if self.has_details => self.draw_details(frame, body),
            ServerKind::Serve => self.draw_models(frame, body),
        }
        self.draw_foot(frame, foot);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let server = &self.state.server;
        let up = now().saturating_sub(server.started) / 1000;
        let title = format!(
            "longshore top  {}  {} {}  up {}",
            self.address,
            server.mode,
            server.version,
            humantime::format_duration(std::time::Duration::from_secs(up))
        );
        if let Link::Lost(why) = &self.link {
            let text = format!("connecting again: {}", plain(why));
            frame.render_widget(Line::styled(text, Style::new().fg(Color::Red)), area);
            return;
        }
        frame.render_widget(Line::styled(title, Modifier::BOLD), area);
        let live = Span::styled("live", Style::new().fg(Color::Green));
        frame.render_widget(Paragraph::new(live).alignment(Alignment::Right), area);
    }

    fn draw_models(&self, frame: &mut Frame<'_>, area: Rect) {
        let selected = self.selected();
        if selected.is_empty() {
            let text = match self.state.models.is_empty() {
                true => "No model is loaded yet. POST /models loads one.",
                false => "No model has these words in its name. Esc clears the filter.",
            };
            frame.render_widget(text, area);
            return;
        }
        // Only the rows on the screen are made.
        let height = usize::from(area.height.saturating_sub(1)).max(1);
        let at = self.position().unwrap_or_default();
        let first = at.saturating_sub(height / 2).min(selected.len().saturating_sub(height));
        let rows = selected.iter().skip(first).take(height).map(|model| {
            let style = match model.state {
                ModelState::Stuck | ModelState::Failed => Style::new().fg(Color::Red),
                ModelState::Loading | ModelState::Restored => Style::new().fg(Color::Yellow),
                ModelState::Loaded => Style::new(),
            };
            row(&COLUMNS, &cells(model)).style(style)
        });
        let order = self.order;
        let titles = COLUMNS.iter().enumerate().map(|(index, (title, is_number))| {
            let sign = match (index == order.column(), order.is_down) {
                (false, _) => "",
                (true, true) => " v",
                (true, false) => " ^",
            };
            cell(format!("{title}{sign}"), *is_number)
        });
        let widths = [
            Constraint::Min(24),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Fill(2),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(titles).style(Modifier::BOLD))
            .row_highlight_style(Modifier::REVERSED);
        let mut state = TableState::new().with_selected(at - first);
        frame.render_stateful_widget(table, area, &mut state);
    }

    fn draw_containers(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = containers(&self.state);
        let rows = rows.iter().map(|cells| row(&CONTAINER_COLUMNS, cells));
        let titles = CONTAINER_COLUMNS.iter();
        let titles = titles.map(|(title, is_number)| cell((*title).to_owned(), *is_number));
        let widths = [
            Constraint::Min(30),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let table = Table::new(rows, widths).header(Row::new(titles).style(Modifier::BOLD));
        frame.render_widget(table, area);
    }

    fn draw_details(&self, frame: &mut Frame<'_>, area: Rect) {
        let selected = self.selected();
        let Some(model) = self.position().and_then(|at| selected.get(at)) else {
            return;
        };
        let lines: Vec<Line<'_>> = details(model)
            .into_iter()
            .map(|(name, value)| Line::from(vec![Span::styled(format!("{name:<18}"), Modifier::BOLD), value.into()]))
            .collect();
        let block = Block::bordered().title(format!(" {} ", plain(shown(model))));
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let text = match (self.is_typing, &*self.filter) {
            (true, filter) => format!("filter: {}_   Enter keeps it, Esc clears it", plain(filter)),
            (false, "") => {
                "q quit  / filter  Enter details  sort: n name t state m memory r requests e errors 5 p50 9 p99 l last error"
                    .to_owned()
            }
            (false, filter) => format!("filter: {}   / changes it, Esc clears it", plain(filter)),
        };
        frame.render_widget(Line::styled(text, Modifier::DIM), area);
    }
}

fn row<'a, const N: usize>(columns: &[(&str, bool); N], cells: &[String; N]) -> Row<'a> {
    Row::new(
        columns
            .iter()
            .zip(cells)
            .map(|((_, is_number), text)| cell(text.clone(), *is_number)),
    )
}

fn cell<'a>(text: String, is_number: bool) -> Cell<'a> {
    let line = Line::from(text);
    Cell::from(match is_number {
        true => line.alignment(Alignment::Right),
        false => line,
    })
}

/// The column of a key.
const fn column(letter: char) -> Option<TopSort> {
    Some(match letter {
        'n' => TopSort::Name,
        't' => TopSort::State,
        'm' => TopSort::Memory,
        'r' => TopSort::Requests,
        'e' => TopSort::Errors,
        '5' => TopSort::P50,
        '9' => TopSort::P99,
        'l' => TopSort::Last,
        _ => return None,
    })
}

fn details(model: &ModelRow) -> Vec<(&'static str, String)> {
    let time = |time: u64| {
        let ago = now().saturating_sub(time) / 1000;
        format!(
            "{} ago",
            humantime::format_duration(std::time::Duration::from_secs(ago))
        )
    };
    let quantile = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), millis);
    let causes: Vec<String> = model
        .causes
        .iter()
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    let mut details = vec![
        ("name", plain(&model.name).into_owned()),
        ("state", model.state.label().to_owned()),
        ("memory", model.memory.map(bytes).unwrap_or_default()),
        ("mapped", bytes(model.mapped)),
        ("shared", bytes(model.shared)),
        ("requests", model.requests.to_string()),
        ("waited for a load", model.cold.to_string()),
        ("p50", quantile(model.p50)),
        ("p99", quantile(model.p99)),
        ("last answer", model.last.map_or_else(|| "-".to_owned(), time)),
        ("errors", model.errors.to_string()),
        ("by cause", causes.join(", ")),
    ];
    if let Some(error) = &model.error {
        details.push((
            "last error",
            format!("{}, {}: {}", time(error.time), error.cause, plain(&error.message)),
        ));
    }
    details
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::rows::tests::models;
    use super::*;

    fn view() -> View {
        let mut view = View::new(
            "http://localhost:8080".to_owned(),
            Order::of(TopSort::Name),
            String::new(),
        );
        view.show(State {
            models: models(),
            ..State::default()
        });
        view
    }

    fn press(view: &mut View, keys: &[KeyCode]) -> bool {
        keys.iter()
            .any(|key| view.press(KeyEvent::new(*key, KeyModifiers::NONE)))
    }

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn keys_sort_filter_choose_and_quit() {
        let mut view = view();
        let names = |view: &View| {
            view.selected()
                .iter()
                .map(|model| model.name.clone())
                .collect::<Vec<_>>()
        };
        press(&mut view, &[KeyCode::Char('r')]);
        assert_eq!(names(&view), ["beta", "gamma", "alpha"]);
        press(&mut view, &[KeyCode::Char('r')]);
        assert_eq!(names(&view), ["alpha", "gamma", "beta"]);
        press(&mut view, &[KeyCode::Down, KeyCode::Down, KeyCode::Down]);
        assert_eq!(view.chosen.as_deref(), Some("beta"), "the choice stops at the end");
        press(&mut view, &[KeyCode::Char('n')]);
        assert_eq!(view.chosen.as_deref(), Some("beta"), "the choice stays with the model");
        press(
            &mut view,
            &[
                KeyCode::Char('/'),
                KeyCode::Char('q'),
                KeyCode::Backspace,
                KeyCode::Char('g'),
                KeyCode::Char('a'),
            ],
        );
        assert_eq!(names(&view), ["gamma"]);
        press(&mut view, &[KeyCode::Enter, KeyCode::Enter]);
        assert!(screen(&view).contains("queue_full"));
        press(&mut view, &[KeyCode::Esc, KeyCode::Esc]);
        assert_eq!(names(&view).len(), 3);
        assert!(press(&mut view, &[KeyCode::Char('q')]));
        assert!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn the_screen_has_the_table_the_sums_and_the_state_of_the_connection() {
        let mut view = view();
        let text = screen(&view);
        for part in [
            "longshore top  http://localhost:8080",
            "live",
            "3 models",
            "team/berlin.tar.gz",
            "MODEL ^",
            "31.0 ms",
            "q quit",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        view.link = Link::Lost("the connection was lost".to_owned());
        assert!(screen(&view).contains("connecting again"));
        view.show(State::default());
        assert!(screen(&view).contains("No model is loaded yet"));
    }

    #[test]
    fn a_table_longer_than_the_screen_scrolls_to_the_chosen_model() {
        let mut view = view();
        let model = |number: usize| ModelRow {
            name: format!("model-{number:05}"),
            ..ModelRow::default()
        };
        view.show(State {
            models: (0..10_000).map(model).collect(),
            ..State::default()
        });
        assert!(screen(&view).contains("model-00000"));
        press(&mut view, &[KeyCode::End]);
        let text = screen(&view);
        assert!(text.contains("model-09999") && !text.contains("model-00000"), "{text}");
    }
}
