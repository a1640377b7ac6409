//! From tokens to the syntax tree.

mod expressions;
mod texts;

use super::Fault;
use super::syntax::*;
use super::tokens::{Token, tokens};
use std::collections::HashSet;
use std::sync::Arc;

/// How deep expressions and blocks may be nested.
const MAX_DEPTH: usize = 120;

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// For each function that is open: names of outer scopes, and whether it yields.
    functions: Vec<(HashSet<Name>, bool)>,
}

/// The statements of a module.
pub(super) fn module(source: &str) -> Result<Vec<Stmt>, Fault> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0, functions: Vec::new() };
    let mut body = Vec::new();
    while !matches!(parser.peek(), Token::End) {
        parser.statement(&mut body)?;
    }
    Ok(body)
}

/// An expression alone, as in an f-string.
fn expression(source: &str, line: usize) -> Result<Expr, Fault> {
    let mut tokens = tokens(&format!("({source})"))?;
    tokens.iter_mut().for_each(|(_, at)| *at = line);
    let mut parser = Parser { tokens, at: 0, depth: 0, functions: Vec::new() };
    parser.expression_list()
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::unsupported(self.line(), message)
    }

    fn is(&self, operator: &str) -> bool {
        matches!(self.peek(), Token::Operator(found) if *found == operator)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == word)
    }

    fn accept(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        self.at += usize::from(found);
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, operator: &str) -> Result<(), Fault> {
        if self.accept(operator) {
            return Ok(());
        }
        Err(self.fault(format!("expected `{operator}`")))
    }

    fn name(&mut self) -> Result<Name, Fault> {
        match self.next() {
            Token::Name(name) => Ok(name.into()),
            _ => {
                self.at -= 1;
                Err(self.fault("expected a name"))
            }
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("nested more than {MAX_DEPTH} deep")));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    // Statements

    fn block(&mut self) -> Result<Vec<Stmt>, Fault> {
        self.expect(":")?;
        let mut body = Vec::new();
        if !matches!(self.peek(), Token::NewLine) {
            self.simple_line(&mut body)?;
            return Ok(body);
        }
        self.at += 1;
        if !matches!(self.next(), Token::Indent) {
            self.at -= 1;
            return Err(self.fault("expected an indented block"));
        }
        while !matches!(self.peek(), Token::Dedent | Token::End) {
            self.nested(|parser| parser.statement(&mut body))?;
        }
        self.at += 1;
        Ok(body)
    }

    fn statement(&mut self, out: &mut Vec<Stmt>) -> Result<(), Fault> {
        let line = self.line();
        let kind = match self.peek().clone() {
            Token::Operator("@") => {
                let mut decorators = Vec::new();
                while self.accept("@") {
                    decorators.push(self.expression()?);
                    if !matches!(self.next(), Token::NewLine) {
                        return Err(self.fault("expected the end of the line"));
                    }
                }
                self.definition(decorators)?
            }
            Token::Name(word) => match word.as_str() {
                "def" | "class" => self.definition(Vec::new())?,
                "async" => return Err(self.fault("`async` is not supported")),
                "if" => {
                    self.at += 1;
                    self.condition()?
                }
                "for" => {
                    self.at += 1;
                    let target = self.targets()?;
                    if !self.accept_word("in") {
                        return Err(self.fault("expected `in`"));
                    }
                    let iterable = self.expression_list()?;
                    let body = self.block()?;
                    let otherwise = if self.accept_word("else") { self.block()? } else { Vec::new() };
                    StmtKind::For(target, iterable, body, otherwise)
                }
                "while" => {
                    self.at += 1;
                    let test = self.expression()?;
                    let body = self.block()?;
                    let otherwise = if self.accept_word("else") { self.block()? } else { Vec::new() };
                    StmtKind::While(test, body, otherwise)
                }
                "try" => {
                    self.at += 1;
                    self.attempt()?
                }
                "with" => {
                    self.at += 1;
                    let parenthesised = self.is("(") && self.with_in_parentheses();
                    self.at += usize::from(parenthesised);
                    let mut items = Vec::new();
                    loop {
                        let context = self.expression()?;
                        let target = if self.accept_word("as") { Some(self.targets()?) } else { None };
                        items.push((context, target));
                        if !self.accept(",") || self.is(")") {
                            break;
                        }
                    }
                    if parenthesised {
                        self.expect(")")?;
                    }
                    StmtKind::With(items, self.block()?)
                }
                _ => return self.simple_line(out),
            },
            _ => return self.simple_line(out),
        };
        out.push(Stmt { line, kind });
        Ok(())
    }

    /// Whether `with (` opens a list of contexts: its closing parenthesis is followed by a colon and it has an `as`.
    fn with_in_parentheses(&self) -> bool {
        let mut depth = 0;
        let mut has_as = false;
        for (i, (token, _)) in self.tokens[self.at..].iter().enumerate() {
            match token {
                Token::Operator("(" | "[" | "{") => depth += 1,
                Token::Operator(")" | "]" | "}") => {
                    depth -= 1;
                    if depth == 0 {
                        let next = self.tokens.get(self.at + i + 1).map(|(token, _)| token);
                        return has_as && matches!(next, Some(Token::Operator(":")));
                    }
                }
                Token::Name(word) if word == "as" && depth == 1 => has_as = true,
                _ => {}
            }
        }
        false
    }

    fn condition(&mut self) -> Result<StmtKind, Fault> {
        let test = self.expression()?;
        let body = self.block()?;
        let line = self.line();
        let otherwise = if self.accept_word("elif") {
            vec![Stmt { line, kind: self.nested(Self::condition)? }]
        } else if self.accept_word("else") {
            self.block()?
        } else {
            Vec::new()
        };
        Ok(StmtKind::If(test, body, otherwise))
    }

    fn attempt(&mut self) -> Result<StmtKind, Fault> {
        let body = self.block()?;
        let mut handlers = Vec::new();
        while self.accept_word("except") {
            if self.is("*") {
                return Err(self.fault("groups of exceptions are not supported"));
            }
            let class = if self.is(":") { None } else { Some(self.expression()?) };
            let name = if self.accept_word("as") { Some(self.name()?) } else { None };
            handlers.push(Handler { class, name, body: self.block()? });
        }
        let otherwise = if self.accept_word("else") { self.block()? } else { Vec::new() };
        let finally = if self.accept_word("finally") { self.block()? } else { Vec::new() };
        Ok(StmtKind::Try { body, handlers, otherwise, finally })
    }

    fn definition(&mut self, decorators: Vec<Expr>) -> Result<StmtKind, Fault> {
        if self.accept_word("class") {
            let name = self.name()?;
            let bases = if self.accept("(") { self.arguments()? } else { Vec::new() };
            return Ok(StmtKind::Class { name, bases, body: self.block()?, decorators });
        }
        if !self.accept_word("def") {
            return Err(self.fault("expected `def` or `class`"));
        }
        let name = self.name()?;
        self.expect("(")?;
        let parameters = self.parameters(")", true)?;
        self.expect(")")?;
        if self.accept("->") {
            self.expression()?;
        }
        self.functions.push((HashSet::new(), false));
        let body = self.block();
        let (outer, is_generator) = self.functions.pop().unwrap_or_default();
        let function = Function { name, parameters, body: body?, outer, is_generator };
        Ok(StmtKind::Function(Arc::new(function), decorators))
    }

    fn parameters(&mut self, end: &str, annotated: bool) -> Result<Vec<Parameter>, Fault> {
        let mut parameters = Vec::new();
        let mut kind = ParameterKind::Plain;
        while !self.is(end) {
            let this = if self.accept("**") {
                ParameterKind::Keywords
            } else if self.accept("*") {
                kind = ParameterKind::KeywordOnly;
                if self.accept(",") {
                    continue;
                }
                ParameterKind::Rest
            } else if self.accept("/") {
                self.accept(",");
                continue;
            } else {
                kind
            };
            let name = self.name()?;
            if annotated && self.accept(":") {
                self.expression()?;
            }
            let default = if self.accept("=") { Some(self.expression()?) } else { None };
            parameters.push(Parameter { name, default, kind: this });
            if !self.accept(",") {
                break;
            }
        }
        Ok(parameters)
    }

    fn simple_line(&mut self, out: &mut Vec<Stmt>) -> Result<(), Fault> {
        loop {
            let line = self.line();
            let kind = self.simple()?;
            out.push(Stmt { line, kind });
            let more = self.accept(";");
            match self.peek() {
                Token::NewLine => {
                    self.at += 1;
                    return Ok(());
                }
                Token::End => return Ok(()),
                _ if more => {}
                _ => return Err(self.fault("expected the end of the line")),
            }
        }
    }

    fn simple(&mut self) -> Result<StmtKind, Fault> {
        let word = if let Token::Name(word) = self.peek() { word.clone() } else { String::new() };
        let ends = |parser: &Self| matches!(parser.peek(), Token::NewLine | Token::End) || parser.is(";");
        match word.as_str() {
            "pass" => self.at += 1,
            "break" => {
                self.at += 1;
                return Ok(StmtKind::Break);
            }
            "continue" => {
                self.at += 1;
                return Ok(StmtKind::Continue);
            }
            "return" => {
                self.at += 1;
                return Ok(StmtKind::Return(if ends(self) { None } else { Some(self.expression_list()?) }));
            }
            "raise" => {
                self.at += 1;
                let error = if ends(self) { None } else { Some(self.expression()?) };
                if self.accept_word("from") {
                    self.expression()?;
                }
                return Ok(StmtKind::Raise(error));
            }
            "assert" => {
                self.at += 1;
                let test = self.expression()?;
                let message = if self.accept(",") { Some(self.expression()?) } else { None };
                return Ok(StmtKind::Assert(test, message));
            }
            "del" => {
                self.at += 1;
                let targets = match self.expression_list()? {
                    Expr { kind: ExprKind::Tuple(items), .. } => items,
                    one => vec![one],
                };
                return Ok(StmtKind::Delete(targets));
            }
            "global" | "nonlocal" => {
                self.at += 1;
                let mut names = vec![self.name()?];
                while self.accept(",") {
                    names.push(self.name()?);
                }
                if let Some((outer, _)) = self.functions.last_mut() {
                    outer.extend(names.iter().cloned());
                }
                return Ok(StmtKind::Global);
            }
            "import" => {
                self.at += 1;
                let mut modules = Vec::new();
                loop {
                    let path = self.dotted()?;
                    let bound = if self.accept_word("as") { Some(self.name()?) } else { None };
                    modules.push((path, bound));
                    if !self.accept(",") {
                        return Ok(StmtKind::Import(modules));
                    }
                }
            }
            "from" => {
                self.at += 1;
                return self.import_from();
            }
            _ => return self.assignment(),
        }
        Ok(StmtKind::Pass)
    }

    fn dotted(&mut self) -> Result<Name, Fault> {
        let mut path = self.name()?.to_string();
        while self.accept(".") {
            path.push('.');
            path.push_str(&self.name()?);
        }
        Ok(path.into())
    }

    fn import_from(&mut self) -> Result<StmtKind, Fault> {
        let mut dots = 0;
        loop {
            if self.accept(".") {
                dots += 1;
            } else if self.accept("...") {
                dots += 3;
            } else {
                break;
            }
        }
        let module = if self.is_word("import") { Name::from("") } else { self.dotted()? };
        if !self.accept_word("import") {
            return Err(self.fault("expected `import`"));
        }
        let parenthesised = self.accept("(");
        let mut names = Vec::new();
        loop {
            if parenthesised && self.is(")") {
                break;
            }
            let name = if self.accept("*") { Name::from("*") } else { self.name()? };
            let bound = if self.accept_word("as") { Some(self.name()?) } else { None };
            names.push((name, bound));
            if !self.accept(",") {
                break;
            }
        }
        if parenthesised {
            self.expect(")")?;
        }
        Ok(StmtKind::ImportFrom(dots, module, names))
    }

    fn assignment(&mut self) -> Result<StmtKind, Fault> {
        let first = self.expression_list()?;
        if self.accept(":") {
            self.expression()?;
            return Ok(match self.accept("=") {
                true => StmtKind::Assign(vec![first], self.expression_list()?),
                false => StmtKind::Pass,
            });
        }
        let augmented = match self.peek() {
            Token::Operator(operator) => match *operator {
                "+=" => Some(Binary::Add),
                "-=" => Some(Binary::Sub),
                "*=" => Some(Binary::Mul),
                "/=" => Some(Binary::Div),
                "//=" => Some(Binary::FloorDiv),
                "%=" => Some(Binary::Mod),
                "**=" => Some(Binary::Pow),
                "&=" => Some(Binary::And),
                "|=" => Some(Binary::Or),
                "^=" => Some(Binary::Xor),
                _ => None,
            },
            _ => None,
        };
        if let Some(operator) = augmented {
            self.at += 1;
            return Ok(StmtKind::Augmented(first, operator, self.expression_list()?));
        }
        if !self.is("=") {
            return Ok(StmtKind::Expr(first));
        }
        let mut targets = vec![first];
        while self.accept("=") {
            targets.push(self.expression_list()?);
        }
        let value = targets.pop().ok_or_else(|| self.fault("expected a value"))?;
        Ok(StmtKind::Assign(targets, value))
    }

    /// Targets of a loop, which end before `in`.
    fn targets(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut items = vec![self.target()?];
        let mut is_tuple = false;
        while self.accept(",") {
            is_tuple = true;
            if self.is_word("in") || self.is("=") {
                break;
            }
            items.push(self.target()?);
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            last => {
                items.extend(last);
                Ok(Expr { line, kind: ExprKind::Tuple(items) })
            }
        }
    }

    fn target(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.accept("*") {
            let inner = self.postfix()?;
            return Ok(Expr { line, kind: ExprKind::Starred(Box::new(inner)) });
        }
        self.postfix()
    }
}
