"""The codes and words by which services say why they refuse a request. Codes are in `Refusal.codes`."""

import re
from typing import Final

NO_CREDIT_CODE: Final = re.compile(
    r"insufficient_(user_)?(quota|balance|credits?|funds)|billing|arrearage|payment_required|exceeded_current_quota"
)
NO_CREDIT_TEXT: Final = re.compile(
    r"quota.{0,20}(exceeded|exhausted|used up)|(exceeded|exhausted).{0,20}quota"
    r"|insufficient.{0,20}(quota|credit|balance|funds)|out of credit|no credits(?! were)|billing|余额不足|欠费",
    re.I,
)
SHORT_TERM: Final = re.compile(r"per[ -]?(second|minute|min|hour|day)\b|(retry|try again) (in|after)|rate.?limit", re.I)

CONTENT_CODE: Final = re.compile(
    r"content_(filter|policy|blocked|violation)|responsible_ai|data_inspection|moderation|prohibited_content"
    r"|sensitive|flagged"
)
CONTENT_TEXT: Final = re.compile(
    r"content.?(management.?)?(policy|filter)|content exists risk|flagged|\bmoderation\b|safety (system|polic|filter)"
    r"|(usage|acceptable use) (polic|guideline)|inappropriate content|considered high risk|sensitive content"
    r"|(violat|blocked).{0,20}guardrail|guardrail.{0,20}(violat|blocked|intervened)|敏感|不安全",
    re.I,
)
PARAMETER_CODE: Final = re.compile(r"^(invalid|unknown|unsupported|missing|unexpected)_(?!prompt)")
PARAMETER_TEXT: Final = re.compile(
    r"\b(unknown|unrecogni[sz]ed|unexpected|invalid|unsupported|extra|missing) (query |request |body )?"
    r"(parameters?|values?|arguments?|fields?|options?|properties|property|keys?|names?|inputs are)\b",
    re.I,
)
"""A rejected parameter. Its name, e.g. `content_filter`, may be a word of content policies."""

ABOUT_THE_ACCOUNT: Final = re.compile(r"\b(account|organi[sz]ation|api key|project)\b", re.I)

AUTH_CODE: Final = re.compile(
    r"(invalid|incorrect|missing|expired)_(api_?key|token|credentials?|authentication)|api_?key_(invalid|expired|missing)"
    r"|authentication|unauthenticated|unauthori[sz]ed|permission|access_denied|no_auth"
)
AUTH_TEXT: Final = re.compile(
    r"api.?key|access.?key|subscription.?key|credential|authenti|unauthori[sz]ed|not authori[sz]ed|permission"
    r"|(invalid|expired|missing).{0,10}token",
    re.I,
)
BAD_KEY_TEXT: Final = re.compile(
    r"(invalid|incorrect|expired|missing|no) (access |valid )?api.?key"
    r"|api.?key.{0,20}(invalid|not valid|incorrect|expired|missing|required)|login fail",
    re.I,
)

RATE_LIMIT_CODE: Final = re.compile(r"rate_limit|too_many_requests|throttl|resource_exhausted|quota_exceeded")
RATE_LIMIT_TEXT: Final = re.compile(r"rate.?limit|too many requests|throttl", re.I)

MODEL_CODE: Final = re.compile(
    r"(model|deployment)_?(not_?(found|exist|available|supported)|unknown|decommissioned|deprecated)|invalid_model"
)
MODEL_TEXT: Final = re.compile(
    r"""\b(models?|deployment)\b.{0,80}
        (not\ (found|exist|available|deployed)|does\ ?n[o']t\ exist|unknown|is\ not\ a\ valid)
    | (unknown|invalid|no\ such|unsupported|access\ to(\ the)?|non-serverless|specified)\ (model|deployment)\b
    | not\ a\ (valid|chat)\ model | allowed(\ now)?,\ your\ model
    | model\ id(entifier)?\b.{0,100}(invalid|isn.t\ supported)
    | does\ ?n[o']t\ support\ (chat|generat|completion)
    | \bmodel\b.{0,60}\bnot\ (supported\ |available\ )?(in|by|for)\b.{0,20}\b(chat|completions)
    | \bmodel\b.{0,60}(decommissioned|deprecated|retired|discontinued|no\ longer)
    | (failed\ to|no|not|please)\ load(ed)?\b.{0,12}\ model | no\ models?\ (is\ |are\ )?loaded | model.{0,20}\ unloaded
    | no\ endpoints\ found\ for
    | 模型.{0,6}不存在
    """,
    re.I | re.X,
)
PATH_TEXT: Final = re.compile(
    r"unexpected endpoint|(unknown|invalid|unsupported) (request )?(url|path|route|endpoint)|no route|cannot post"
    r"|not found|^\W*(404|405)\W*$|method not allowed",
    re.I,
)
SCHEME_TEXT: Final = re.compile(
    r"http request (was sent )?to (an )?https|plain http to an? (ssl|tls|https)|instead use the https scheme", re.I
)
ACCOUNT_TEXT: Final = re.compile(
    r"data policy|guardrail restrictions|allowed.providers|account settings|settings/privacy|provider preferences", re.I
)
TRANSIENT_TEXT: Final = re.compile(
    r"(retry|try again) (in|after) (about |approximately )?[\d.]+ ?[smhd]|(retry|try again) (shortly|later|soon)\b"
    r"|right now|temporar(y|il)|overloaded|(at|no|over|out of) capacity|capacity.{0,20}exceeded"
    r"|(currently|still) (loading|pulling|starting)|being loaded",
    re.I,
)
"""Words of services that reject a request although the same one may succeed later."""

REFUSED_CODE: Final = re.compile(
    r"invalid|bad_request|not_found|unsupported|unprocessable|validation|unknown_parameter"
)

DEPLOYMENT_CODE: Final = re.compile(r"deployment_?not_?found", re.I)
DEPLOYMENT_TEXT: Final = re.compile(r"\bAPI deployment\b", re.I)
