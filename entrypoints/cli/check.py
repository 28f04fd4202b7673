"""`smart-chatbot check`: summarize the configuration."""

from entrypoints.settings import Settings


def summary(settings: Settings) -> str:
    """Return one line each for the model, the stores, the address and authentication, without secrets."""
    model = f"{settings.openai_model} at {settings.model_host}" if settings.has_model else "none; see below"
    database = f"PostgreSQL at {settings.database_host}" if settings.database_host else settings.database
    history = database if settings.history_backend == "sql" else "in memory, lost on restart"
    memory = settings.memory_backend + (f" at {settings.memory_host}" if settings.memory_host else "")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = {
        "model": model,
        "history": history,
        "memory": memory,
        "address": f"http://{host}:{settings.port}",
        "auth": settings.auth,
    }
    return "\n".join(f"{name:<10}{value}" for name, value in lines.items())
