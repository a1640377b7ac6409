//! What is assigned to and deleted.

use super::Fault;
use super::evaluate::type_error;
use super::execute::Machine;
use super::syntax::*;
use super::value::{Key, Scope, V};
use std::rc::Rc;

impl Machine<'_> {
    pub(super) fn assign(&mut self, target: &Expr, value: V, scope: &Rc<Scope>) -> Result<(), Fault> {
        match &target.kind {
            ExprKind::Name(name) => {
                self.bind(name, value, scope);
                Ok(())
            }
            ExprKind::Tuple(targets) | ExprKind::List(targets) => {
                let mut items = self.iterate(&value)?;
                let star = targets.iter().position(|target| matches!(target.kind, ExprKind::Starred(_)));
                if let Some(star) = star {
                    if items.len() + 1 < targets.len() {
                        return Err(Fault::raised("ValueError", "not enough values to unpack"));
                    }
                    let after = items.split_off(items.len() - (targets.len() - star - 1));
                    let middle = items.split_off(star);
                    items.push(V::list(middle));
                    items.extend(after);
                }
                if items.len() != targets.len() {
                    let message = format!("expected {} values to unpack, got {}", targets.len(), items.len());
                    return Err(Fault::raised("ValueError", message));
                }
                for (target, item) in targets.iter().zip(items) {
                    let target = if let ExprKind::Starred(inner) = &target.kind { inner } else { target };
                    self.assign(target, item, scope)?;
                }
                Ok(())
            }
            ExprKind::Attribute(object, name) => match self.evaluate(object, scope)? {
                V::Instance(instance) => {
                    instance.attributes.borrow_mut().insert(Name::clone(name), value);
                    Ok(())
                }
                V::Class(class) => {
                    class.attributes.borrow_mut().insert(Name::clone(name), value);
                    Ok(())
                }
                other => Err(Fault::unsupported(0, format!("setting an attribute of a {}", other.type_name()))),
            },
            ExprKind::Index(object, index) => {
                let object = self.evaluate(object, scope)?;
                let index = self.evaluate(index, scope)?;
                self.set_item(&object, index, value)
            }
            _ => Err(Fault::unsupported(target.line, "assigning to this")),
        }
    }

    fn set_item(&mut self, object: &V, index: V, value: V) -> Result<(), Fault> {
        match object {
            V::Dict(dict) => dict.borrow_mut().insert(index, value),
            V::List(items) => {
                let mut items = items.borrow_mut();
                let length = items.len() as i64;
                let at = index.int().ok_or_else(|| type_error("list indices must be integers"))?;
                let at = usize::try_from(if at < 0 { at + length } else { at }).ok();
                let slot = at.and_then(|at| items.get_mut(at));
                *slot.ok_or_else(|| Fault::raised("IndexError", "list assignment index out of range"))? = value;
                Ok(())
            }
            V::Matrix(matrix) => matrix.borrow_mut().set(&index, &value),
            V::Module(scope) => {
                scope.names.borrow_mut().insert(index.to_str()?.into(), value);
                Ok(())
            }
            other => Err(Fault::unsupported(0, format!("setting an item of a {}", other.type_name()))),
        }
    }

    pub(super) fn delete(&mut self, target: &Expr, scope: &Rc<Scope>) -> Result<(), Fault> {
        match &target.kind {
            ExprKind::Name(name) => {
                scope.names.borrow_mut().remove(name);
                Ok(())
            }
            ExprKind::Index(object, index) => {
                let object = self.evaluate(object, scope)?;
                let index = self.evaluate(index, scope)?;
                match &object {
                    V::Dict(dict) => {
                        let key: Key = index.key()?;
                        let removed = dict.borrow_mut().remove(&key);
                        removed.map(drop).ok_or_else(|| Fault::raised("KeyError", index.to_repr(0).unwrap_or_default()))
                    }
                    V::List(items) => {
                        let length = items.borrow().len() as i64;
                        let at = index.int().map(|at| if at < 0 { at + length } else { at });
                        let at = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| (at as i64) < length);
                        let at = at.ok_or_else(|| Fault::raised("IndexError", "list index out of range"))?;
                        items.borrow_mut().remove(at);
                        Ok(())
                    }
                    other => Err(Fault::unsupported(0, format!("deleting from a {}", other.type_name()))),
                }
            }
            _ => Err(Fault::unsupported(target.line, "deleting this")),
        }
    }

    /// Binds a name in the scope that it belongs to.
    pub(super) fn bind(&mut self, name: &Name, value: V, scope: &Rc<Scope>) {
        let is_outer = scope.function.as_ref().is_some_and(|function| function.outer.contains(name));
        let mut owner = Rc::clone(scope);
        if is_outer {
            while let Some(parent) = owner.parent.clone() {
                let is_module = parent.parent.is_none();
                owner = parent;
                if is_module || owner.names.borrow().contains_key(name) {
                    break;
                }
            }
        }
        owner.names.borrow_mut().insert(Name::clone(name), value);
    }
}
