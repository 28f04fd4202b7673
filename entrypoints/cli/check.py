"""`smart-chatbot check`: summarize the configuration."""

from entrypoints.settings import Settings


def summary(settings: Settings) -> str:
    """Return one line each for the model, the stores and the address, without secrets."""
    model = f"{settings.openai_model} at {settings.model_host}" if settings.has_model else "none; see below"
    database = f"PostgreSQL at {settings.database_host}" if settings.database_host else settings.database
    history = database if settings.history_backend == "sql" else "in memory, lost on restart"
    memory = settings.memory_backend + (f" at {settings.memory_host}" if settings.memory_host else "")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"model     {model}\nhistory   {history}\nmemory    {memory}\naddress   http://{host}:{settings.port}"
