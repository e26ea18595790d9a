import { ApiError } from '../lib/errors.ts'

/** The methods of each URL, for requests that match no route: 405 with Allow, or 404. */
export function createMethodTable() {
  const routes = new Map<string, Set<string>>()

  return {
    add(url: string, method: string): void {
      routes.set(url, (routes.get(url) ?? new Set()).add(method))
    },
    missing(url: string, method: string): ApiError {
      const path = url.split('?', 1)[0]!.split('/')
      const methods = [...routes].flatMap(([pattern, methods]) =>
        matches(pattern.split('/'), path) ? [...methods] : [],
      )
      if (methods.length === 0) {
        return new ApiError('not_found', `No route exists for ${method} at this URL; /openapi.json lists all routes.`)
      }
      const allow = [...new Set(methods)].sort().join(', ')
      return new ApiError('method_not_allowed', `This URL does not support ${method}; use ${allow}.`, {
        headers: { allow },
      })
    },
  }
}

function matches(pattern: string[], path: string[]): boolean {
  return pattern.length === path.length && pattern.every((part, i) => part === path[i] || (part[0] === ':' && path[i]))
}
