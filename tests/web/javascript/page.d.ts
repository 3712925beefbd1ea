// The elements of index.html that the page's code names, by their ids in camelCase. For the type check only: the page
// does not load it. tests/web/test_page_types.py holds it to the page.

interface Elements {
  app: HTMLElement;
  banner: HTMLElement;
  bannerText: HTMLElement;
  composer: HTMLFormElement;
  context: HTMLElement;
  contextCancel: HTMLButtonElement;
  contextText: HTMLElement;
  deleteDialog: HTMLDialogElement;
  deleteForm: HTMLFormElement;
  deleteKeep: HTMLButtonElement;
  deleteText: HTMLElement;
  enter: HTMLFormElement;
  enterError: HTMLElement;
  enterGo: HTMLButtonElement;
  enterName: HTMLInputElement;
  hint: HTMLElement;
  jump: HTMLButtonElement;
  list: HTMLElement;
  live: HTMLElement;
  main: HTMLElement;
  me: HTMLButtonElement;
  menu: HTMLButtonElement;
  menuClose: HTMLButtonElement;
  nameDialog: HTMLDialogElement;
  nameError: HTMLElement;
  nameForm: HTMLFormElement;
  nameGo: HTMLButtonElement;
  nameInput: HTMLInputElement;
  nameNote: HTMLElement;
  nameSkip: HTMLButtonElement;
  nameTitle: HTMLElement;
  nameToken: HTMLButtonElement;
  notices: HTMLElement;
  retry: HTMLButtonElement;
  rooms: HTMLElement;
  scrim: HTMLButtonElement;
  scroller: HTMLElement;
  seen: HTMLElement;
  send: HTMLButtonElement;
  side: HTMLElement;
  signIn: HTMLButtonElement;
  standing: HTMLElement;
  status: HTMLButtonElement;
  text: HTMLTextAreaElement;
  title: HTMLElement;
  tokenDialog: HTMLDialogElement;
  tokenError: HTMLElement;
  tokenForm: HTMLFormElement;
  tokenInput: HTMLTextAreaElement;
  tokenLeave: HTMLButtonElement;
  top: HTMLElement;
  typing: HTMLElement;
  way: HTMLElement;
}
