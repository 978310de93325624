"""The pack on disk."""
