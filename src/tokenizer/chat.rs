//! Chat templates: Jinja, as transformers renders them.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::TokenizerError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A parsed chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Parses `source`; the two tokens are what the template calls `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// If the template is not valid.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<ChatTemplate, TokenizerError> {
        let mut environment = Environment::new();
        // The settings of transformers' `render_jinja_template`.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| TokenizerError::BadTemplate { reason: format!("{e:#}") })?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| TokenizerError::BadTemplate { reason: format!("{e:#}") })?;
        Ok(ChatTemplate { environment, bos_token: bos_token.to_owned(), eos_token: eos_token.to_owned() })
    }

    /// The text of the template.
    pub fn source(&self) -> Option<String> {
        Some(self.environment.get_template(NAME).ok()?.source().to_owned())
    }

    /// Renders a conversation; `add_generation_prompt` opens the next answer.
    ///
    /// # Errors
    /// If the template refuses the messages (by `raise_exception`) or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        let error = |e: minijinja::Error| TokenizerError::Render { reason: format!("{e:#}") };
        let template = self.environment.get_template(NAME).map_err(error)?;
        template
            .render(context! {
                messages => Value::from(Serde(messages)),
                add_generation_prompt,
                bos_token => self.bos_token.as_str(),
                eos_token => self.eos_token.as_str(),
            })
            .map_err(error)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// Today's date in the format of `strftime`, as templates put it into system prompts (UTC).
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let now = time::OffsetDateTime::now_utc();
    let invalid = |e: String| minijinja::Error::new(ErrorKind::InvalidOperation, e);
    let format = time::format_description::parse_strftime_borrowed(format).map_err(|e| invalid(e.to_string()))?;
    now.format(&format).map_err(|e| invalid(e.to_string()))
}

/// JSON as transformers writes it: Python's separators, no HTML escapes, optional indentation.
fn to_json(value: Serde<serde_json::Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Escapes, key order and separators have no meaning to a model that differs from what follows.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let result = match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.0.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => value.0.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    result
        .map_err(|e| e.to_string())
        .and_then(|()| String::from_utf8(out).map_err(|e| e.to_string()))
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e))
}

/// `", "` and `": "`, as Python's `json.dumps` separates.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TokenizerError> {
        let messages: Vec<Message> = messages
            .iter()
            .map(|(role, content)| Message { role: (*role).into(), content: (*content).into() })
            .collect();
        ChatTemplate::new(source, "<s>", "</s>")?.render(&messages, true)
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\nQ: {{ m['content'].strip() }}\n  {% endif %}\n{% endfor %}\nA:";
        assert_eq!(render(source, &[("user", " hi ")]).expect("renders"), "<s>Q: hi\nA:");
    }

    #[test]
    fn python_habits_work() {
        let source = "{{ messages[0]['content'].split(' ')[-1].upper() }} {{ {'a': [1, 2]} | tojson }} {{ messages[-1:] | length }}";
        assert_eq!(render(source, &[("user", "one two")]).expect("renders"), "TWO {\"a\": [1, 2]} 1");
        let year = render("{{ strftime_now('%Y') }}", &[]).expect("renders");
        assert!(year.parse::<u32>().is_ok_and(|year| year >= 2026), "{year}");
    }

    #[test]
    fn errors_say_where() {
        let error = render("{{ raise_exception('no ' ~ messages[0].role) }}", &[("tool", "x")]).expect_err("raises");
        assert!(error.to_string().contains("no tool"), "{error}");
        let error = render("a\n{% if %}", &[]).expect_err("is not valid");
        assert!(matches!(error, TokenizerError::BadTemplate { .. }) && error.to_string().contains("2"), "{error}");
    }
}
