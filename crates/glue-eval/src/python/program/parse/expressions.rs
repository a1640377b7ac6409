//! Expressions, from the loosest to the tightest.

use super::{MAX_DEPTH, Parser};
use crate::python::program::Fault;
use crate::python::program::syntax::*;
use crate::python::program::tokens::Token;
use std::collections::HashSet;
use std::sync::Arc;

impl Parser {
    /// Expressions with commas between them are a tuple.
    pub(super) fn expression_list(&mut self) -> Result<Expr, Fault> {
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

    pub(super) fn expression(&mut self) -> Result<Expr, Fault> {
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

    pub(super) fn postfix(&mut self) -> Result<Expr, Fault> {
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
    pub(super) fn arguments(&mut self) -> Result<Vec<Argument>, Fault> {
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
}
