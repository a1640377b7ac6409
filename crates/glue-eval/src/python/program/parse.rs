//! From tokens to the syntax tree.

use super::Fault;
use super::syntax::*;
use super::tokens::{Token, tokens, unescape};
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

    // Expressions, from the loosest to the tightest

    /// Expressions with commas between them are a tuple.
    fn expression_list(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.starred()?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept(",") {
            let ends = match self.peek() {
                Token::NewLine | Token::End => true,
                Token::Operator(operator) => matches!(*operator, ")" | "]" | "}" | "=" | ":" | ";"),
                _ => false,
            };
            if ends {
                break;
            }
            items.push(self.starred()?);
        }
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }

    fn starred(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.accept("*") {
            let inner = self.expression()?;
            return Ok(Expr { line, kind: ExprKind::Starred(Box::new(inner)) });
        }
        self.expression()
    }

    fn expression(&mut self) -> Result<Expr, Fault> {
        self.nested(Self::conditional)
    }

    fn conditional(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.accept_word("lambda") {
            let parameters = self.parameters(":", false)?;
            self.expect(":")?;
            let body = self.expression()?;
            let body = vec![Stmt { line, kind: StmtKind::Return(Some(body)) }];
            let name = "<lambda>".into();
            let function = Function { name, parameters, body, outer: HashSet::new(), is_generator: false };
            return Ok(Expr { line, kind: ExprKind::Lambda(Arc::new(function)) });
        }
        if self.accept_word("yield") {
            if self.is_word("from") {
                return Err(self.fault("`yield from` is not supported"));
            }
            if let Some((_, yields)) = self.functions.last_mut() {
                *yields = true;
            }
            let ends = matches!(self.peek(), Token::NewLine) || self.is(")");
            let value = if ends { None } else { Some(Box::new(self.expression_list()?)) };
            return Ok(Expr { line, kind: ExprKind::Yield(value) });
        }
        let value = self.either()?;
        if let ExprKind::Name(name) = &value.kind
            && self.is(":=")
        {
            let name = name.clone();
            self.at += 1;
            let value = self.expression()?;
            return Ok(Expr { line, kind: ExprKind::Walrus(name, Box::new(value)) });
        }
        if !self.accept_word("if") {
            return Ok(value);
        }
        let test = self.either()?;
        if !self.accept_word("else") {
            return Err(self.fault("expected `else`"));
        }
        let otherwise = self.expression()?;
        Ok(Expr { line, kind: ExprKind::Conditional(Box::new([test, value, otherwise])) })
    }

    fn either(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.both()?;
        if !self.is_word("or") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept_word("or") {
            items.push(self.both()?);
        }
        Ok(Expr { line, kind: ExprKind::Or(items) })
    }

    fn both(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.negation()?;
        if !self.is_word("and") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept_word("and") {
            items.push(self.negation()?);
        }
        Ok(Expr { line, kind: ExprKind::And(items) })
    }

    fn negation(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        if self.accept_word("not") {
            let value = self.nested(Self::negation)?;
            return Ok(Expr { line, kind: ExprKind::Unary(Unary::Not, Box::new(value)) });
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.binary(0)?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Token::Operator(operator) => match *operator {
                    "==" => Comparison::Equal,
                    "!=" => Comparison::NotEqual,
                    "<" => Comparison::Less,
                    "<=" => Comparison::LessEqual,
                    ">" => Comparison::Greater,
                    ">=" => Comparison::GreaterEqual,
                    _ => break,
                },
                Token::Name(word) => match word.as_str() {
                    "in" => Comparison::In,
                    "is" => {
                        self.at += 1;
                        let negated = self.is_word("not");
                        self.at -= usize::from(!negated);
                        if negated { Comparison::IsNot } else { Comparison::Is }
                    }
                    "not" if matches!(self.tokens.get(self.at + 1), Some((Token::Name(next), _)) if next == "in") => {
                        self.at += 1;
                        Comparison::NotIn
                    }
                    _ => break,
                },
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.binary(0)?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr { line, kind: ExprKind::Compare(Box::new(first), rest) })
    }

    fn binary(&mut self, level: usize) -> Result<Expr, Fault> {
        const LEVELS: &[&[(&str, Binary)]] = &[
            &[("|", Binary::Or)],
            &[("^", Binary::Xor)],
            &[("&", Binary::And)],
            &[("<<", Binary::ShiftLeft), (">>", Binary::ShiftRight)],
            &[("+", Binary::Add), ("-", Binary::Sub)],
            &[("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)],
        ];
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let line = self.line();
        let mut left = self.binary(level + 1)?;
        loop {
            let Token::Operator(found) = self.peek() else { return Ok(left) };
            let Some(&(_, operator)) = operators.iter().find(|(name, _)| name == found) else { return Ok(left) };
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = Expr { line, kind: ExprKind::Binary(operator, Box::new(left), Box::new(right)) };
        }
    }

    fn unary(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        for (name, operator) in [("-", Unary::Minus), ("+", Unary::Plus), ("~", Unary::Invert)] {
            if self.accept(name) {
                let value = self.nested(Self::unary)?;
                return Ok(Expr { line, kind: ExprKind::Unary(operator, Box::new(value)) });
            }
        }
        let base = self.postfix()?;
        if self.accept("**") {
            let exponent = self.nested(Self::unary)?;
            return Ok(Expr { line, kind: ExprKind::Binary(Binary::Pow, Box::new(base), Box::new(exponent)) });
        }
        Ok(base)
    }

    fn postfix(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut value = self.atom()?;
        let start = self.depth;
        loop {
            // A long chain is deep in the tree.
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.fault(format!("nested more than {MAX_DEPTH} deep")));
            }
            let kind = if self.accept(".") {
                ExprKind::Attribute(Box::new(value), self.name()?)
            } else if self.accept("(") {
                ExprKind::Call(Box::new(value), self.arguments()?)
            } else if self.accept("[") {
                let index = self.subscript()?;
                self.expect("]")?;
                ExprKind::Index(Box::new(value), Box::new(index))
            } else {
                self.depth = start;
                return Ok(value);
            };
            value = Expr { line, kind };
        }
    }

    fn subscript(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let first = self.slice()?;
        if !self.is(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.accept(",") {
            if self.is("]") {
                break;
            }
            items.push(self.slice()?);
        }
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }

    fn slice(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let mut parts = [None, None, None];
        let mut colons = 0;
        loop {
            if self.is("]") || self.is(",") {
                break;
            }
            if self.accept(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.fault("a slice has three parts at most"));
                }
                continue;
            }
            parts[colons] = Some(Box::new(self.starred()?));
            if !self.is(":") {
                break;
            }
        }
        match parts {
            [Some(only), None, None] if colons == 0 => Ok(*only),
            parts if colons > 0 => Ok(Expr { line, kind: ExprKind::Slice(parts) }),
            _ => Err(self.fault("expected an index")),
        }
    }

    /// The arguments of a call, after its parenthesis.
    fn arguments(&mut self) -> Result<Vec<Argument>, Fault> {
        let mut arguments = Vec::new();
        while !self.accept(")") {
            let is_keyword = matches!(self.peek(), Token::Name(_))
                && matches!(self.tokens.get(self.at + 1), Some((Token::Operator("="), _)));
            if self.accept("**") {
                arguments.push(Argument::DoubleStar(self.expression()?));
            } else if self.accept("*") {
                arguments.push(Argument::Star(self.expression()?));
            } else if is_keyword {
                let name = self.name()?;
                self.at += 1;
                arguments.push(Argument::Keyword(name, self.expression()?));
            } else {
                let value = self.expression()?;
                let value = self.comprehension(value, None, Collection::Generator)?;
                arguments.push(Argument::Positional(value));
            }
            if !self.accept(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(arguments)
    }

    /// The clauses after an element, if there are any.
    fn comprehension(&mut self, element: Expr, value: Option<Expr>, kind: Collection) -> Result<Expr, Fault> {
        let line = element.line;
        if !self.is_word("for") {
            return match value {
                None => Ok(element),
                Some(_) => Err(self.fault("expected `for`")),
            };
        }
        let mut clauses = Vec::new();
        while self.accept_word("for") {
            let target = self.targets()?;
            if !self.accept_word("in") {
                return Err(self.fault("expected `in`"));
            }
            let iterable = self.either()?;
            let mut conditions = Vec::new();
            while self.accept_word("if") {
                conditions.push(self.either()?);
            }
            clauses.push(Clause { target, iterable, conditions });
        }
        let comprehension = Comprehension { kind, element, value, clauses };
        Ok(Expr { line, kind: ExprKind::Comprehension(Box::new(comprehension)) })
    }

    fn atom(&mut self) -> Result<Expr, Fault> {
        let line = self.line();
        let kind = match self.next() {
            Token::Name(word) => match word.as_str() {
                "None" => ExprKind::None,
                "True" => ExprKind::Bool(true),
                "False" => ExprKind::Bool(false),
                "await" | "match" if matches!(self.peek(), Token::Name(_)) => {
                    return Err(self.fault(format!("`{word}` is not supported")));
                }
                _ => ExprKind::Name(word.into()),
            },
            Token::Int(value) => ExprKind::Int(value),
            Token::Float(value) => ExprKind::Float(value),
            Token::Str(_) | Token::Format(..) => {
                self.at -= 1;
                self.strings()?
            }
            Token::Operator("...") => ExprKind::None,
            Token::Operator("(") => return self.nested(|parser| parser.parenthesised(line)),
            Token::Operator("[") => return self.nested(|parser| parser.listed(line)),
            Token::Operator("{") => return self.nested(|parser| parser.braced(line)),
            _ => {
                self.at -= 1;
                return Err(self.fault("expected an expression"));
            }
        };
        Ok(Expr { line, kind })
    }

    fn parenthesised(&mut self, line: usize) -> Result<Expr, Fault> {
        if self.accept(")") {
            return Ok(Expr { line, kind: ExprKind::Tuple(Vec::new()) });
        }
        let value = self.expression_list()?;
        let value = self.comprehension(value, None, Collection::Generator)?;
        self.expect(")")?;
        Ok(value)
    }

    fn listed(&mut self, line: usize) -> Result<Expr, Fault> {
        if self.accept("]") {
            return Ok(Expr { line, kind: ExprKind::List(Vec::new()) });
        }
        let first = self.starred()?;
        if self.is_word("for") {
            let list = self.comprehension(first, None, Collection::List)?;
            self.expect("]")?;
            return Ok(list);
        }
        let mut items = vec![first];
        while self.accept(",") && !self.is("]") {
            items.push(self.starred()?);
        }
        self.expect("]")?;
        Ok(Expr { line, kind: ExprKind::List(items) })
    }

    fn braced(&mut self, line: usize) -> Result<Expr, Fault> {
        if self.accept("}") {
            return Ok(Expr { line, kind: ExprKind::Dict(Vec::new()) });
        }
        let mut pairs = Vec::new();
        let mut items = Vec::new();
        loop {
            if self.accept("**") {
                pairs.push((None, self.expression()?));
            } else {
                let key = self.starred()?;
                if self.accept(":") {
                    let value = self.expression()?;
                    if self.is_word("for") {
                        let dict = self.comprehension(key, Some(value), Collection::Dict)?;
                        self.expect("}")?;
                        return Ok(dict);
                    }
                    pairs.push((Some(key), value));
                } else if self.is_word("for") {
                    let set = self.comprehension(key, None, Collection::Set)?;
                    self.expect("}")?;
                    return Ok(set);
                } else {
                    items.push(key);
                }
            }
            if !self.accept(",") || self.is("}") {
                break;
            }
        }
        self.expect("}")?;
        match (pairs.is_empty(), items.is_empty()) {
            (_, true) => Ok(Expr { line, kind: ExprKind::Dict(pairs) }),
            (true, false) => Ok(Expr { line, kind: ExprKind::Set(items) }),
            _ => Err(self.fault("a set has no pairs")),
        }
    }

    /// Strings that stand beside each other are one.
    fn strings(&mut self) -> Result<ExprKind, Fault> {
        let mut pieces: Vec<Piece> = Vec::new();
        let push = |pieces: &mut Vec<Piece>, piece: Piece| match (pieces.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(text)) => *last = format!("{last}{text}").into(),
            (_, piece) => pieces.push(piece),
        };
        let mut is_format = false;
        loop {
            let line = self.line();
            match self.peek().clone() {
                Token::Str(text) => push(&mut pieces, Piece::Text(text.into())),
                Token::Format(text, raw) => {
                    is_format = true;
                    let parsed = self.nested(|parser| parser.format_pieces(&text, raw, line))?;
                    parsed.into_iter().for_each(|piece| push(&mut pieces, piece));
                }
                _ => break,
            }
            self.at += 1;
        }
        Ok(match pieces.as_slice() {
            [] => ExprKind::Str("".into()),
            [Piece::Text(text)] if !is_format => ExprKind::Str(text.clone()),
            _ => ExprKind::Format(pieces),
        })
    }

    fn format_pieces(&mut self, text: &str, raw: bool, line: usize) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if rest.starts_with(brace) {
                literal.push_str(brace);
                rest = &rest[1..];
                continue;
            }
            if brace == "}" {
                return Err(Fault::unsupported(line, "an f-string has a single `}`"));
            }
            self.flush(&mut literal, raw, line, &mut pieces)?;
            let (end, colon) = field_end(rest).ok_or_else(|| Fault::unsupported(line, "an f-string has no `}`"))?;
            let mut field = rest[..colon.unwrap_or(end)].trim();
            let mut conversion = None;
            if let Some((before, letter)) = field.rsplit_once('!')
                && matches!(letter, "r" | "s" | "a")
            {
                (field, conversion) = (before.trim_end(), letter.chars().next());
            }
            if let Some(shown) = field.strip_suffix('=').filter(|shown| !shown.ends_with(['=', '!', '<', '>'])) {
                pieces.push(Piece::Text(field.into()));
                (field, conversion) = (shown.trim_end(), conversion.or(Some('r')));
            }
            let value = self.nested(|_| expression(field, line))?;
            let spec = match colon {
                Some(colon) => self.nested(|parser| parser.format_pieces(&rest[colon + 1..end], raw, line))?,
                None => Vec::new(),
            };
            pieces.push(Piece::Value { value, conversion, spec });
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        self.flush(&mut literal, raw, line, &mut pieces)?;
        Ok(pieces)
    }

    fn flush(&self, literal: &mut String, raw: bool, line: usize, out: &mut Vec<Piece>) -> Result<(), Fault> {
        if literal.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(literal);
        let text =
            if raw { text } else { unescape(&text).map_err(|message| Fault::unsupported(line, message))? };
        out.push(Piece::Text(text.into()));
        Ok(())
    }
}

/// Where the value in braces ends, and where its format begins.
fn field_end(text: &str) -> Option<(usize, Option<usize>)> {
    let (mut depth, mut colon, mut quote) = (0usize, None, None);
    for (at, c) in text.char_indices() {
        match c {
            c if quote == Some(c) => quote = None,
            _ if quote.is_some() => {}
            '\'' | '"' if colon.is_none() => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            '}' if depth == 0 => return Some((at, colon)),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && colon.is_none() => colon = Some(at),
            _ => {}
        }
    }
    None
}
