//! The syntax tree of a Python module, as far as functions of tasks need it.

use std::collections::HashSet;
use std::sync::Arc;

/// A name in a program.
pub(super) type Name = Arc<str>;

/// An expression and the line on which it begins.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) line: usize,
    pub(super) kind: ExprKind,
}

#[derive(Debug)]
pub(super) enum ExprKind {
    Name(Name),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Name),
    /// The parts of an f-string.
    Format(Vec<Piece>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Set(Vec<Expr>),
    /// A pair without a key is `**mapping`.
    Dict(Vec<(Option<Expr>, Expr)>),
    Attribute(Box<Expr>, Name),
    Index(Box<Expr>, Box<Expr>),
    Slice([Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Vec<Argument>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Test, value if it holds, value if not.
    Conditional(Box<[Expr; 3]>),
    Lambda(Arc<Function>),
    Comprehension(Box<Comprehension>),
    Starred(Box<Expr>),
    Walrus(Name, Box<Expr>),
    Yield(Option<Box<Expr>>),
}

/// A part of an f-string: text, or a value with how it is shown.
#[derive(Debug)]
pub(super) enum Piece {
    Text(Name),
    Value { value: Expr, conversion: Option<char>, spec: Vec<Piece> },
}

#[derive(Debug)]
pub(super) enum Argument {
    Positional(Expr),
    Star(Expr),
    Keyword(Name, Expr),
    DoubleStar(Expr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
    Plus,
    Invert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
    Is,
    IsNot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collection {
    List,
    Set,
    Dict,
    Generator,
}

#[derive(Debug)]
pub(super) struct Comprehension {
    pub(super) kind: Collection,
    /// The element; of a dictionary its key.
    pub(super) element: Expr,
    pub(super) value: Option<Expr>,
    pub(super) clauses: Vec<Clause>,
}

/// `for target in iterable if … if …`
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) target: Expr,
    pub(super) iterable: Expr,
    pub(super) conditions: Vec<Expr>,
}

#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: usize,
    pub(super) kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    Expr(Expr),
    Assign(Vec<Expr>, Expr),
    Augmented(Expr, Binary, Expr),
    Return(Option<Expr>),
    If(Expr, Vec<Stmt>, Vec<Stmt>),
    /// Target, iterable, body, `else`.
    For(Expr, Expr, Vec<Stmt>, Vec<Stmt>),
    While(Expr, Vec<Stmt>, Vec<Stmt>),
    Try {
        body: Vec<Stmt>,
        handlers: Vec<Handler>,
        otherwise: Vec<Stmt>,
        finally: Vec<Stmt>,
    },
    With(Vec<(Expr, Option<Expr>)>, Vec<Stmt>),
    Raise(Option<Expr>),
    Assert(Expr, Option<Expr>),
    Function(Arc<Function>, Vec<Expr>),
    Class {
        name: Name,
        bases: Vec<Argument>,
        body: Vec<Stmt>,
        decorators: Vec<Expr>,
    },
    /// Modules, each with the name it is bound to and whether that name is for the whole path.
    Import(Vec<(Name, Option<Name>)>),
    /// Dots before the module, the module, and names with what they are bound to.
    ImportFrom(usize, Name, Vec<(Name, Option<Name>)>),
    /// Which names it is for is known to the function.
    Global,
    Delete(Vec<Expr>),
    Pass,
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct Handler {
    pub(super) class: Option<Expr>,
    pub(super) name: Option<Name>,
    pub(super) body: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: Name,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Vec<Stmt>,
    /// Names that belong to an outer scope even where they are assigned.
    pub(super) outer: HashSet<Name>,
    pub(super) is_generator: bool,
}

#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: Name,
    pub(super) default: Option<Expr>,
    pub(super) kind: ParameterKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParameterKind {
    Plain,
    KeywordOnly,
    /// `*args`
    Rest,
    /// `**kwargs`
    Keywords,
}

/// A part of a tree.
pub(super) enum Node<'a> {
    Statement(&'a Stmt),
    Expression(&'a Expr),
}

/// Shows `visit` every statement and expression of `body`, those of functions in it included.
pub(super) fn walk<'a>(body: &'a [Stmt], visit: &mut dyn FnMut(Node<'a>)) {
    for statement in body {
        walk_statement(statement, visit);
    }
}

fn walk_function<'a>(function: &'a Function, visit: &mut dyn FnMut(Node<'a>)) {
    for default in function.parameters.iter().filter_map(|parameter| parameter.default.as_ref()) {
        walk_expression(default, visit);
    }
    walk(&function.body, visit);
}

fn walk_statement<'a>(statement: &'a Stmt, visit: &mut dyn FnMut(Node<'a>)) {
    visit(Node::Statement(statement));
    let mut bodies: Vec<&'a [Stmt]> = Vec::new();
    let mut expressions: Vec<&'a Expr> = Vec::new();
    match &statement.kind {
        StmtKind::Expr(value) => expressions.push(value),
        StmtKind::Assign(targets, value) => expressions.extend(targets.iter().chain([value])),
        StmtKind::Augmented(target, _, value) => expressions.extend([target, value]),
        StmtKind::Return(value) | StmtKind::Raise(value) => expressions.extend(value),
        StmtKind::If(test, body, otherwise) | StmtKind::While(test, body, otherwise) => {
            expressions.push(test);
            bodies.extend([&**body, otherwise]);
        }
        StmtKind::For(target, iterable, body, otherwise) => {
            expressions.extend([target, iterable]);
            bodies.extend([&**body, otherwise]);
        }
        StmtKind::Try { body, handlers, otherwise, finally } => {
            bodies.extend([&**body, otherwise, finally]);
            bodies.extend(handlers.iter().map(|handler| &*handler.body));
        }
        StmtKind::With(items, body) => {
            expressions.extend(items.iter().flat_map(|(context, target)| [context].into_iter().chain(target)));
            bodies.push(body);
        }
        StmtKind::Assert(test, message) => expressions.extend([test].into_iter().chain(message)),
        StmtKind::Function(function, decorators) => {
            expressions.extend(decorators);
            walk_function(function, visit);
        }
        StmtKind::Class { bases, body, decorators, .. } => {
            expressions.extend(decorators);
            bases.iter().for_each(|base| walk_argument(base, visit));
            bodies.push(body);
        }
        StmtKind::Delete(targets) => expressions.extend(targets),
        StmtKind::Import(_) | StmtKind::ImportFrom(..) | StmtKind::Global => {}
        StmtKind::Pass | StmtKind::Break | StmtKind::Continue => {}
    }
    expressions.into_iter().for_each(|expression| walk_expression(expression, visit));
    bodies.into_iter().for_each(|body| walk(body, visit));
}

fn walk_argument<'a>(argument: &'a Argument, visit: &mut dyn FnMut(Node<'a>)) {
    match argument {
        Argument::Positional(value)
        | Argument::Star(value)
        | Argument::Keyword(_, value)
        | Argument::DoubleStar(value) => walk_expression(value, visit),
    }
}

fn walk_pieces<'a>(pieces: &'a [Piece], visit: &mut dyn FnMut(Node<'a>)) {
    for piece in pieces {
        if let Piece::Value { value, spec, .. } = piece {
            walk_expression(value, visit);
            walk_pieces(spec, visit);
        }
    }
}

fn walk_expression<'a>(expression: &'a Expr, visit: &mut dyn FnMut(Node<'a>)) {
    visit(Node::Expression(expression));
    let mut below: Vec<&'a Expr> = Vec::new();
    match &expression.kind {
        ExprKind::Format(pieces) => walk_pieces(pieces, visit),
        ExprKind::List(items) | ExprKind::Tuple(items) | ExprKind::Set(items) => below.extend(items),
        ExprKind::And(items) | ExprKind::Or(items) => below.extend(items),
        ExprKind::Dict(pairs) => {
            below.extend(pairs.iter().flat_map(|(key, value)| key.iter().chain([value])));
        }
        ExprKind::Attribute(value, _) | ExprKind::Unary(_, value) | ExprKind::Starred(value) => below.push(value),
        ExprKind::Walrus(_, value) => below.push(value),
        ExprKind::Index(value, index) | ExprKind::Binary(_, value, index) => below.extend([&**value, index]),
        ExprKind::Slice(parts) => below.extend(parts.iter().flatten().map(|part| &**part)),
        ExprKind::Call(function, arguments) => {
            below.push(function);
            arguments.iter().for_each(|argument| walk_argument(argument, visit));
        }
        ExprKind::Compare(first, rest) => {
            below.push(first);
            below.extend(rest.iter().map(|(_, value)| value));
        }
        ExprKind::Conditional(parts) => below.extend(parts.iter()),
        ExprKind::Lambda(function) => walk_function(function, visit),
        ExprKind::Comprehension(comprehension) => {
            below.push(&comprehension.element);
            below.extend(&comprehension.value);
            for clause in &comprehension.clauses {
                below.extend([&clause.target, &clause.iterable]);
                below.extend(&clause.conditions);
            }
        }
        ExprKind::Yield(value) => below.extend(value.as_deref()),
        ExprKind::Name(_) | ExprKind::None | ExprKind::Bool(_) | ExprKind::Int(_) | ExprKind::Float(_) => {}
        ExprKind::Str(_) => {}
    }
    below.into_iter().for_each(|expression| walk_expression(expression, visit));
}
