//! What a device says of an action, and what other threads leave behind.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A poisoned lock only means that another thread panicked; a cache is never half written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `action` and catches what the device says of it, in place of the panic that is wgpu's
/// default: the first error, validation before the others.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    action: impl FnOnce() -> T,
) -> (T, impl Future<Output = Option<String>>) {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let scopes = [Internal, OutOfMemory, Validation].map(|filter| device.push_error_scope(filter));
    let result = action();
    let [internal, memory, validation] = scopes;
    // Popped in the reverse order of pushing, and before anything is awaited.
    let (validation, memory, internal) = (validation.pop(), memory.pop(), internal.pop());
    let first = async move {
        let errors = [validation.await, memory.await, internal.await];
        errors.into_iter().flatten().next().map(|error| error.to_string())
    };
    (result, first)
}

/// The future's value if it has one already: on native, errors are known at once.
pub(crate) fn if_ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
