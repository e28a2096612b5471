//! The live view: `turnpike bw top` on a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Paragraph, Row, Table, TableState};
use turnpike_agent_api::BwReport;

use super::text::{COLUMNS, HEADINGS, head, rows};

/// The counters are read as often.
const REFRESH: Duration = Duration::from_secs(1);
/// Width of a column with a number.
const CELL: u16 = 8;
/// Least width of the pods' names.
const NAME: u16 = 16;

/// True where there is a terminal to draw on.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Draws until somebody says q.
pub(super) fn run(mut ask: impl FnMut() -> anyhow::Result<BwReport>) -> anyhow::Result<()> {
    // The first answer decides whether there is anything to draw.
    let mut view = View { report: ask()?, error: None, table: TableState::default() };
    let mut terminal = ratatui::try_init()?;
    let result = view.watch(&mut terminal, &mut ask);
    ratatui::try_restore()?;
    result
}

struct View {
    report: BwReport,
    /// Why the report is old.
    error: Option<String>,
    table: TableState,
}

impl View {
    fn watch(
        &mut self,
        terminal: &mut ratatui::DefaultTerminal,
        ask: &mut impl FnMut() -> anyhow::Result<BwReport>,
    ) -> anyhow::Result<()> {
        let mut due = Instant::now() + REFRESH;
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            if event::poll(due.saturating_duration_since(Instant::now()))? {
                if let Event::Key(key) = event::read()?
                    && self.obey(key)
                {
                    return Ok(());
                }
                continue;
            }
            due = Instant::now() + REFRESH;
            match ask() {
                Ok(report) => (self.report, self.error) = (report, None),
                Err(error) => self.error = Some(format!("{error:#}")),
            }
        }
    }

    /// True when it was said to end.
    fn obey(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Down | KeyCode::Char('j') => self.table.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.table.select_previous(),
            KeyCode::Home => self.table.select_first(),
            KeyCode::End => self.table.select_last(),
            _ => {}
        }
        false
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let head: Vec<Line<'_>> = head(&self.report).into_iter().map(Line::from).collect();
        let lines = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let areas = Layout::vertical([
            Constraint::Length(lines.saturating_add(1)),
            Constraint::Min(1),
            Constraint::Length(1),
        ]);
        let [top, middle, bottom] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(Text::from(head)).bold(), top);
        let mut widths = [Constraint::Length(CELL); COLUMNS];
        if let Some(first) = widths.first_mut() {
            *first = Constraint::Min(NAME);
        }
        let table = Table::new(rows(&self.report).into_iter().map(Row::new), widths)
            .header(Row::new(HEADINGS).style(Style::new().bold().reversed()))
            .row_highlight_style(Style::new().reversed());
        frame.render_stateful_widget(table, middle, &mut self.table);
        let foot = match &self.error {
            Some(error) => Line::from(error.clone()).red(),
            None => Line::from("> to the pod, < from the pod, bit/s on Ethernet frames   ↑↓ scroll   q quit"),
        };
        frame.render_widget(foot, bottom);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::bw::tests::report;

    #[test]
    fn a_screen_shows_node_uplink_and_pods() {
        let mut terminal = Terminal::new(TestBackend::new(150, 8)).unwrap();
        let mut view = View { report: report(), error: None, table: TableState::default() };
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let screen = terminal.backend().to_string();
        for wanted in ["node n1: 2 pods", "uplink eth0: speed 1G", "shop/web", "95.6M", "q quit"] {
            assert!(screen.contains(wanted), "{wanted}\n{screen}");
        }
        view.error = Some("cannot reach turnpike-agent".to_owned());
        terminal.draw(|frame| view.draw(frame)).unwrap();
        assert!(terminal.backend().to_string().contains("cannot reach turnpike-agent"));
    }

    #[test]
    fn q_ends_it_and_arrows_do_not() {
        let mut view = View { report: report(), error: None, table: TableState::default() };
        assert!(!view.obey(KeyCode::Down.into()));
        assert_eq!(view.table.selected(), Some(0));
        assert!(view.obey(KeyCode::Char('q').into()));
    }
}
